"""A fit that is stopped, killed or damaged goes on to what it would have been, and loses nothing."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fit_factory import Plain, Squares, fit, rows, same_weights, small_pinet, weights

from xai_align.pinet import FrozenEncoder, PiNet, SecondLookHead
from xai_align.pinet.network.losses import PiNetLoss
from xai_align.training import checkpoints
from xai_align.training.checkpoints import CheckpointWarning, DamagedCheckpoint, read_checkpoint
from xai_align.training.pinet.fit import fit_pinet

TESTS = Path(__file__).parent


def undisturbed(**options):
    model = small_pinet()
    return fit(model=model, **options), weights(model)


def stored(out):
    return sorted(path.name for path in Path(out, "checkpoints").iterdir())


def content(out):
    return {path: path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}


def lines(out):
    return rows([json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()])


class Stop(Exception):
    pass


def stop_after(count):
    """Raises when so many rows were logged."""
    heard = []

    def listen(row):
        heard.append(row)
        if len(heard) == count:
            raise Stop

    return listen


@pytest.mark.parametrize("after", [1, 2, 5])
@pytest.mark.parametrize("options", [{}, {"mixed_precision": "bf16", "schedule": "plateau"}])
def test_a_run_that_was_stopped_goes_on_to_the_last_bit(tmp_path, after, options):
    wanted, end = undisturbed(**options)
    with pytest.raises(Stop):
        fit(tmp_path, log=stop_after(after), **options)
    model = small_pinet(seed=99)  # whatever it has: the checkpoint knows better
    done = fit(tmp_path, model=model, **options)
    assert rows(done.history) == rows(wanted.history) == lines(tmp_path)
    assert same_weights(model, end)
    assert done.best == next(row for row in reversed(done.history) if row["best"])
    epoch = (after - 1) // 2  # two rows an epoch, the second at its end, before the checkpoint
    assert f"resuming from the end of epoch {epoch} " in done.notes[0]
    assert "steps of a later epoch are repeated" in done.notes[0]


def test_the_table_goes_on_in_the_same_columns(tmp_path):
    fit(tmp_path / "straight")
    with pytest.raises(Stop):
        fit(tmp_path / "stopped", log=stop_after(3))
    fit(tmp_path / "stopped")
    one, two = (list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("straight", "stopped"))
    assert list(one[0]) == list(two[0])
    assert rows(one) == rows(two)


def test_memory_formats_are_kept(tmp_path):
    models = [small_pinet().to(memory_format=torch.channels_last) for _ in range(2)]
    fit(model=models[0])
    with pytest.raises(Stop):
        fit(tmp_path, model=models[1], log=stop_after(3))
    fit(tmp_path, model=models[1])
    assert same_weights(models[1], weights(models[0]))
    strides = [[value.stride() for value in model.state_dict().values()] for model in models]
    assert strides[0] == strides[1]


def test_stopping_twice_is_no_different(tmp_path):
    wanted, end = undisturbed()
    for after in (1, 2, 3):
        with pytest.raises(Stop):
            fit(tmp_path, log=stop_after(after))
    model = small_pinet()
    fit(tmp_path, model=model)
    assert same_weights(model, end)
    assert lines(tmp_path) == rows(wanted.history)


@pytest.fixture
def one_thread():
    """As the program has that is killed: another number of threads is another rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_run_that_is_killed_anywhere_goes_on(tmp_path, one_thread):
    """33 items are looked at first, then 40 in an epoch: three steps of 8, and 8 after the second and the third."""
    whole_epochs = {
        45: 0,  # killed in the second step
        70: 0,  # in a validation
        74: 1,  # right after a checkpoint
        99: 1,  # between steps
        150: 2,  # in the last validation
    }
    wanted, end = undisturbed()
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), str(TESTS.parent / "adapters")])
    program = [sys.executable, str(TESTS / "fit_factory.py"), "killed", str(tmp_path), *map(str, whole_epochs)]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    died = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert died.returncode == 0, died.stderr
    assert set(json.loads(died.stdout)) == {-signal.SIGKILL}
    for item, epochs in whole_epochs.items():
        out, model = tmp_path / str(item), small_pinet(seed=7)
        assert stored(out)[-1] == f"epoch-{epochs:05d}.safetensors"
        done = fit(out, model=model)
        assert same_weights(model, end)
        assert lines(out) == rows(wanted.history) == rows(done.history)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, epoch):
    wanted, end = undisturbed()
    known = os.replace

    def fails(source, target):
        if Path(target).name == f"epoch-{epoch:05d}.safetensors":
            raise OSError("no space left")
        known(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no space left"):
        fit(tmp_path)
    before = [f"epoch-{number:05d}.safetensors" for number in range(epoch)][-2:]
    assert stored(tmp_path) == before
    assert all(read_checkpoint(tmp_path / "checkpoints" / name) for name in before)
    monkeypatch.undo()
    model = small_pinet()
    fit(tmp_path, model=model)
    assert same_weights(model, end)
    assert lines(tmp_path) == rows(wanted.history)


def damage(path, how):
    whole = path.read_bytes()
    middle = len(whole) * 2 // 3
    path.write_bytes(
        {
            "cut": whole[:middle],
            "empty": b"",
            "changed": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "other": b"not a checkpoint",
        }[how]
    )


@pytest.mark.parametrize("how", ["cut", "empty", "changed", "other"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, how):
    wanted, end = undisturbed()
    fit(tmp_path)
    assert stored(tmp_path) == ["epoch-00002.safetensors", "epoch-00003.safetensors"]
    damage(tmp_path / "checkpoints/epoch-00003.safetensors", how)
    model = small_pinet()
    with pytest.warns(CheckpointWarning, match=r"epoch-00003.*damaged.*The older '.*epoch-00002.safetensors' is used"):
        done = fit(tmp_path, model=model)
    assert "resuming from the end of epoch 2 " in done.notes[0]
    assert same_weights(model, end)
    assert rows(done.history) == rows(wanted.history)


def test_if_all_are_damaged_nothing_is_touched(tmp_path):
    fit(tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        damage(path, "cut")
    before = content(tmp_path)
    with pytest.raises(
        ValueError, match=r"no checkpoint in .* can be used: .*00003.*damaged.*00002.*nothing was changed"
    ):
        fit(tmp_path)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seed": 6}, "seed was 5, is 6"),
        ({"batch_size": 4}, "batch_size was 8, is 4"),
        ({"learning_rate": 0.1}, r"optimizer \(groups \(0 \(lr was 0\.005, is 0\.1\)\)\)"),
        ({"validate_every": None}, "validate_every was 2, is null"),
        ({"epochs": 4}, "epochs was 3, is 4"),
        ({"mixed_precision": "bf16"}, 'mixed_precision was "no", is "bf16"'),
        ({"model": Plain()}, "trained .*"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, options, told):
    fit(tmp_path)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=f"is of a run with another configuration: .*{told}"):
        fit(tmp_path, **options)
    assert content(tmp_path) == before


def test_other_labels_or_another_loss_are_another_configuration(tmp_path):
    given = {"epochs": 1, "batch_size": 4, "out": tmp_path}
    fit_pinet(Plain(), Squares(8), loss=PiNetLoss("binary"), **given)
    with pytest.raises(ValueError, match=r"loss \(parsimony was 0.0, is 1.0\)"):
        fit_pinet(Plain(), Squares(8), loss=PiNetLoss("binary", parsimony=1.0), **given)
    with pytest.raises(ValueError, match=r"the_training_data|train.*\(examples was 8, is 12; targets changed"):
        fit_pinet(Plain(), Squares(12), loss=PiNetLoss("binary"), **given)
    swapped = Squares(8, label=lambda i: 1 - i)
    with pytest.raises(ValueError, match=r"train.*\(targets changed"):
        fit_pinet(Plain(), swapped, loss=PiNetLoss("binary"), **given)


def test_another_frozen_backbone_is_another_configuration(tmp_path):
    def on_backbone(seed):
        encoder = small_pinet(seed).encoder.eval()
        return PiNet(FrozenEncoder(encoder), SecondLookHead(encoder.channels, 1, width=4))

    fit(tmp_path, model=on_backbone(0))
    with pytest.raises(ValueError, match="frozen changed"):
        fit(tmp_path, model=on_backbone(1))
    (newest,) = (tmp_path / "checkpoints").glob("*3.safetensors")
    assert not [name for name in read_checkpoint(newest).tensors if "encoder" in name]  # it is large, and known


def test_what_stays_but_is_not_frozen_for_good_is_kept_too(tmp_path):
    """So a model that was made anew, with other random weights in a part that isn't trained, goes on as well."""
    models = [small_pinet(seed) for seed in (0, 0, 1)]
    for model in models:
        model.head.decoder.requires_grad_(False)
    fit(model=models[0])
    with pytest.raises(Stop):
        fit(tmp_path, model=models[1], log=stop_after(3))
    fit(tmp_path, model=models[2])
    assert same_weights(models[2], weights(models[0]))


def test_a_finished_run_is_only_read_and_can_be_made_longer(tmp_path):
    options = {"schedule": "none"}
    wanted, end = undisturbed(epochs=4, **options)
    first = fit(tmp_path, **options)
    model = small_pinet(seed=3)
    again = fit(tmp_path, model=model, log=stop_after(1), **options)  # not a single step
    assert again.history == first.history
    assert again.best == first.best
    assert "had already finished after epoch 3; nothing was trained" in again.notes[0]
    longer = fit(tmp_path, model=model, epochs=4, **options)
    assert rows(longer.history) == rows(wanted.history)
    assert same_weights(model, end)


def test_a_run_that_had_enough_does_not_go_on(tmp_path):
    first = fit(tmp_path, stop_at=0.0)
    again = fit(tmp_path, stop_at=0.0, log=stop_after(1))
    assert (again.stopped, again.steps) == (first.stopped, first.steps) == ("stop_at", 2)


def test_resume_says_what_should_be_there(tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        fit(tmp_path, resume="must")
    fit(tmp_path, epochs=1)
    before = content(tmp_path)
    with pytest.raises(ValueError, match="already holds a run; choose another folder"):
        fit(tmp_path, epochs=1, resume="never")
    assert content(tmp_path) == before
    assert fit(tmp_path, epochs=1, resume="must").epochs == 1


def test_a_folder_that_is_no_path_is_refused_before_the_fit():
    with pytest.raises(TypeError, match="out is the path of a folder or None, got int 3"):
        fit(3)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    fit(tmp_path, epochs=1)
    monkeypatch.setattr(torch, "load", None)
    assert fit(tmp_path, epochs=1).notes


def test_a_later_format_is_no_checkpoint_of_this_version(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    fit(tmp_path, epochs=1)
    monkeypatch.undo()
    with pytest.raises(DamagedCheckpoint, match="has format '2'; this version reads 1"):
        read_checkpoint(tmp_path / "checkpoints/epoch-00001.safetensors")


def test_the_model_is_saved_in_the_end(tmp_path):
    model = small_pinet()
    fit(tmp_path, model=model, epochs=1)
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_an_optimiser_whose_state_is_no_tensor_is_refused_where_checkpoints_are_written(tmp_path):
    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["memory"] = object()

    data = {"loss": PiNetLoss("binary"), "epochs": 1, "batch_size": 4, "optimizer": lambda ps: Odd(ps, lr=0.1)}
    fit_pinet(Plain(), Squares(8), **data)
    with pytest.raises(TypeError, match="the optimiser's 'memory' holds a object, which a checkpoint can't keep"):
        fit_pinet(Plain(), Squares(8), out=tmp_path, **data)
