"""Lightning and transformers call the log at the end of each epoch and of the training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.networks import conv_net, images
from xai_align import explain
from xai_align.report.watching import ExplanationLog
from xai_align.report.watching.writers import MlflowWriter, TensorBoardWriter, WandbWriter

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Kept:
    def __init__(self):
        self.steps, self.closed, self.answers = [], 0, {}

    def image(self, name, picture, step):
        if name == "map/1":
            self.steps.append(step)

    def number(self, name, value, step):
        if name == "answer/1":
            self.answers[step] = value

    def close(self):
        self.closed += 1


def watching(writer, **options):
    return ExplanationLog(images(2, 16, seed=9), [1, 3], writer=writer, **options)


# ---------------------------------------------------------------- Lightning


def lightning_run(tmp_path, log=None, epochs=3, network=None, **options):
    lightning = pytest.importorskip("lightning")

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(conv_net(), nn.Dropout(0.3)).train()

        def forward(self, x):
            return self.backbone(x)

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, index):
            self.log("error", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    from xai_align.report.watching.lightning import ExplanationCallback

    data = TensorDataset(images(8, 16), torch.arange(8) % 5)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=[] if log is None else [ExplanationCallback(log, network)],
        enable_checkpointing=False, **{"logger": False} | options,
    )  # fmt: skip
    torch.manual_seed(5)
    module = Classifier()
    trainer.fit(module, DataLoader(data, batch_size=4, shuffle=True), DataLoader(data, batch_size=4))
    return module


@pytest.mark.parametrize("network", [None, "backbone"])
def test_lightning(tmp_path, network):
    writer = Kept()
    module = lightning_run(tmp_path, watching(writer, share=1), network=network)
    assert writer.steps == [2, 4, 6]  # two batches an epoch; the end of the last one is the end of the training
    assert writer.closed == 1
    answer = explain(module.eval(), images(2, 16, seed=9), [1, 3]).answer[0]
    assert writer.answers[6] == pytest.approx(float(answer), rel=1e-5)
    assert writer.answers[6] != writer.answers[4]


def test_lightning_trains_the_same_with_and_without(tmp_path):
    plain = lightning_run(tmp_path).state_dict()
    watched = lightning_run(tmp_path, watching(Kept(), share=1)).state_dict()
    assert all(torch.equal(value, watched[name]) for name, value in plain.items())


def test_lightning_says_that_there_was_no_time(tmp_path):
    writer = Kept()
    log = watching(writer, share=1e-9)
    with pytest.warns(UserWarning, match="no explanation was written: 1e-07 % of the training's"):
        lightning_run(tmp_path, log, epochs=4)
    assert not writer.steps


def test_lightnings_logger_is_used(tmp_path):
    pytest.importorskip("tensorboard")
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = loggers.TensorBoardLogger(tmp_path)
    lightning_run(tmp_path, watching(None, share=1), logger=board)
    board.experiment.close()
    events = EventAccumulator(board.log_dir).Reload()
    assert [one.step for one in events.Images("explanations/map/1")] == [2, 4, 6]
    assert "error" in events.Tags()["scalars"]


def test_without_a_logger_files_are_in_lightnings_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    lightning_run(root, watching(None, share=1))
    assert any((root / "explanations").iterdir())
    assert not (tmp_path / "explanations").exists()


def test_writers_of_lightnings_loggers(monkeypatch):
    pytest.importorskip("lightning")
    import sys

    from xai_align.report.watching.lightning import writer_of

    calls = []
    run = SimpleNamespace(define_metric=lambda *names, **more: None, step=0, log=lambda *row, **more: calls.append(row))
    client = SimpleNamespace(log_metric=lambda *row, **more: calls.append(row))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None, Image=None))

    def logger(name, **fields):
        return type(name, (), fields)()

    assert writer_of([logger("CSVLogger")]) is None
    assert isinstance(writer_of([logger("TensorBoardLogger", experiment=None)]), TensorBoardWriter)
    wandb = writer_of([logger("CSVLogger"), logger("WandbLogger", experiment=run)])
    mlflow = writer_of([logger("MLFlowLogger", experiment=client, run_id="r1")])
    assert isinstance(wandb, WandbWriter)
    assert isinstance(mlflow, MlflowWriter)
    wandb.number("answer/1", 2.0, 3)
    mlflow.number("answer/1", 2.0, 3)
    assert calls == [({"explanations/answer/1": 2.0, "explanations/step": 3},), ("r1", "explanations/answer/1", 2.0)]


def test_lightning_refuses_a_network_that_is_not_there(tmp_path):
    with pytest.raises(AttributeError, match="head"):
        lightning_run(tmp_path, watching(Kept()), network="head")


# ---------------------------------------------------------------- transformers


def trainer_run(tmp_path, log=None, epochs=3):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from hf_align import ExplanationCallback

    torch.manual_seed(5)
    model = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=5, layer_type="basic"
        )
    )
    data = [{"pixel_values": image, "labels": number % 5} for number, image in enumerate(images(8, 32))]
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=epochs, per_device_train_batch_size=4, report_to=[], save_strategy="no",
        disable_tqdm=True, use_cpu=True, logging_strategy="no", seed=5,
    )  # fmt: skip
    callbacks = [] if log is None else [ExplanationCallback(log)]
    transformers.Trainer(model, arguments, train_dataset=data, callbacks=callbacks).train()
    return model


def test_trainer(tmp_path):
    writer = Kept()
    model = trainer_run(tmp_path, ExplanationLog(images(2, 32, seed=9), [1, 3], writer=writer, share=1))
    assert writer.steps == [2, 4, 6]
    assert writer.closed == 1
    answer = explain(model.eval(), images(2, 32, seed=9), [1, 3]).answer[0]
    assert writer.answers[6] == pytest.approx(float(answer), rel=1e-4)
    assert writer.answers[6] != writer.answers[4]


def test_trainer_trains_the_same_with_and_without(tmp_path):
    plain = trainer_run(tmp_path / "a").state_dict()
    watched = trainer_run(tmp_path / "b", ExplanationLog(images(1, 32), share=1)).state_dict()
    assert all(torch.equal(value, watched[name]) for name, value in plain.items())
    assert any((tmp_path / "b" / "explanations").iterdir())


def test_other_processes_do_not_explain():
    pytest.importorskip("transformers")
    from hf_align import ExplanationCallback

    writer = Kept()
    callback = ExplanationCallback(watching(writer))
    state = SimpleNamespace(is_world_process_zero=False, global_step=3)
    arguments = SimpleNamespace(output_dir="out")
    callback.on_train_begin(arguments, state, None)
    callback.on_epoch_end(arguments, state, None, model=conv_net())
    callback.on_train_end(arguments, state, None, model=conv_net())
    assert writer.steps == []
