"""Where explanations of a training go: TensorBoard, Weights & Biases, MLflow, files; by itself or by name.

Weights & Biases and MLflow are replaced by the calls that their documentation names, so that these tests run
without them; where they are installed, they are called as well.
"""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tests.networks import conv_net, images
from xai_align.report.watching import ExplanationLog, FolderWriter
from xai_align.report.watching.writers import MlflowWriter, TensorBoardWriter, WandbWriter, writer_for

PICTURE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


@pytest.fixture(autouse=True)
def no_active_run(monkeypatch):
    """Packages as if they had not been imported."""
    for name in ("wandb", "mlflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)


# ---------------------------------------------------------------- Weights & Biases


class WandbRun:
    """A run as wandb documents it: values logged with commit=False join the next row; equal names are replaced."""

    def __init__(self):
        self.step, self.rows, self.waiting, self.axes = 0, [], {}, {}

    def define_metric(self, name, step_metric=None):
        self.axes[name] = step_metric

    def log(self, data, step=None, commit=None):
        if step is not None:
            assert step >= self.step, "wandb drops such a row"
            if step > self.step and self.waiting:
                self._write()
            self.step = step
        self.waiting |= data
        if commit or (commit is None and step is None):
            self._write()
            self.step += 1

    def _write(self):
        self.rows.append(self.waiting)
        self.waiting = {}


@pytest.fixture
def wandb(monkeypatch):
    module = ModuleType("wandb")
    module.Image = lambda picture: SimpleNamespace(picture=picture)
    module.run = WandbRun()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_rows_have_their_own_axis(wandb):
    writer = WandbWriter()
    writer.image("map/a", PICTURE, 3)
    writer.number("answer/a", 1.5, 3)
    writer.close()
    (row,) = wandb.run.rows
    assert row["explanations/map/a"].picture is PICTURE
    assert (row["explanations/answer/a"], row["explanations/step"]) == (1.5, 3)
    assert wandb.run.axes == {"explanations/step": None, "explanations/*": "explanations/step"}


def rows_of(run):
    return [row["explanations/answer/a"] for row in run.rows if "explanations/answer/a" in row]


@pytest.mark.parametrize("order", ["before", "after", "never", "without steps"])
def test_wandb_keeps_every_row_and_drops_none_of_the_training(wandb, order):
    run, writer = wandb.run, WandbWriter()
    for step in range(4):
        if order == "before":
            run.log({"loss": step}, step=step)
        writer.number("answer/a", float(step), step)
        if order == "after":
            run.log({"loss": step}, step=step)
        if order == "without steps":
            run.log({"loss": step})
    writer.close()
    run.log({"end": 1})
    assert rows_of(run) == [0, 1, 2, 3]
    losses = [row["loss"] for row in run.rows if "loss" in row]
    assert losses == ([] if order == "never" else [0, 1, 2, 3])


def test_wandb_without_a_run_is_refused(wandb):
    wandb.run = None
    with pytest.raises(ValueError, match=r"call wandb\.init\(\)"):
        WandbWriter()


def test_the_real_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = pytest.importorskip("wandb")
    run = wandb.init(project="test", dir=str(tmp_path))
    try:
        assert isinstance(writer_for(None, tmp_path), WandbWriter)
        log = ExplanationLog(images(1, 16), 1, share=1)
        for step in range(3):
            seen = log.step(conv_net(), step)
            run.log({"loss": 1.0}, step=step)
        log.finish(conv_net())
        assert run.summary["explanations/step"] == 2
        assert run.summary["explanations/answer/1"] == pytest.approx(seen[0].answer)
        assert run.summary["explanations/map/1"]["_type"] == "image-file"
    finally:
        run.finish()


# ---------------------------------------------------------------- MLflow


class MlflowClient:
    """The client as MLflow documents it."""

    def __init__(self):
        self.logged = []

    def log_image(self, run_id, image, artifact_file=None, key=None, step=None, timestamp=None, synchronous=None):
        self.logged.append((run_id, key, image.shape, step))

    def log_metric(self, run_id, key, value, timestamp=None, step=None, synchronous=None):
        self.logged.append((run_id, key, value, step))


@pytest.fixture
def mlflow(monkeypatch):
    module, client = ModuleType("mlflow"), MlflowClient()
    module.MlflowClient = lambda: client
    module.active_run = lambda: SimpleNamespace(info=SimpleNamespace(run_id="r1"))
    module.client = client
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


def test_mlflow(mlflow):
    writer = MlflowWriter()
    writer.image("map/a", PICTURE, 3)
    writer.number("answer/a", 1.5, 3)
    writer.close()
    assert mlflow.client.logged == [
        ("r1", "explanations/map/a", (4, 5, 3), 3),
        ("r1", "explanations/answer/a", 1.5, 3),
    ]


def test_mlflow_without_a_run_is_refused(mlflow):
    mlflow.active_run = lambda: None
    with pytest.raises(ValueError, match=r"call mlflow\.start_run\(\)"):
        MlflowWriter()


def test_the_real_mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    mlflow.set_experiment("test")
    with mlflow.start_run() as run:
        assert isinstance(writer_for(None, tmp_path), MlflowWriter)
        log = ExplanationLog(images(1, 16), 1, share=1)
        answers = [log.step(conv_net(), step)[0].answer for step in range(3)]
        log.finish(conv_net())
    client = mlflow.MlflowClient()
    history = client.get_metric_history(run.info.run_id, "explanations/answer/1")
    assert [(one.step, one.value) for one in history] == list(enumerate(answers))
    assert list(tmp_path.rglob("*map*1*step*2*.png"))


# ---------------------------------------------------------------- TensorBoard


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log, model = ExplanationLog(images(2, 16), [1, 3], writer="tensorboard", folder=tmp_path, share=1), conv_net()
    seen = [log.step(model, step) for step in (0, 7)]
    log.finish(model)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(one.step, one.value) for one in events.Scalars("explanations/answer/2")] == [
        (0, pytest.approx(seen[0][1].answer)),
        (7, pytest.approx(seen[1][1].answer)),
    ]
    assert [one.step for one in events.Scalars("explanations/rank_correlation/mean")] == [7]
    assert [(one.step, one.width, one.height) for one in events.Images("explanations/map/1")] == [
        (0, 16, 16),
        (7, 16, 16),
    ]
    assert [one.step for one in events.Images("explanations/picture/1")] == [0]


def test_a_summary_writer_of_the_user_stays_open(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    board = SummaryWriter(str(tmp_path))
    log = ExplanationLog(images(1, 16), 1, writer=TensorBoardWriter(board))
    log.step(conv_net())
    log.finish(conv_net())
    assert board.all_writers
    board.close()


# ---------------------------------------------------------------- the choice


def test_an_active_run_is_used_first(tmp_path, wandb, mlflow):
    assert isinstance(writer_for(None, tmp_path), WandbWriter)
    wandb.run = None
    assert isinstance(writer_for(None, tmp_path), MlflowWriter)
    mlflow.active_run = lambda: None
    assert not isinstance(writer_for(None, tmp_path), WandbWriter | MlflowWriter)


def test_without_any_package_there_are_files(tmp_path, monkeypatch):
    for name in ("wandb", "mlflow", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    log = ExplanationLog(images(1, 16), 1, folder=tmp_path)
    log.step(conv_net())
    assert (tmp_path / "numbers.csv").is_file()
    assert isinstance(writer_for(None, tmp_path), FolderWriter)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    if name == "tensorboard":
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install {name}$"):
        ExplanationLog(images(1, 16), 1, writer=name, folder=tmp_path).step(conv_net())


def test_nothing_is_imported_that_the_writer_does_not_need():
    names = "wandb mlflow tensorboard lightning transformers fiftyone matplotlib".split()
    code = f"import sys, xai_align.report.watching; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
