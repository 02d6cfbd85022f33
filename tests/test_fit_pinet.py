"""Fitting: what is learnt, in which order, what is measured, and that nothing else of the caller's changes."""

from __future__ import annotations

import csv
import json
import math
import random
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fit_factory import Plain, Squares, fit, rows, same_weights, small_pinet, weights
from networks import untouched
from torch import nn

from xai_align.pinet import FrozenEncoder, SecondLookHead, conv_pinet
from xai_align.pinet.network.losses import Batch, PiNetLoss
from xai_align.training.epoch_plan import epoch_plan
from xai_align.training.pinet.dataset_validation import FittingDataWarning
from xai_align.training.pinet.fit import fit_pinet
from xai_align.training.pinet.metric import metric_of

BINARY = PiNetLoss("binary")
NAN = float("nan")


def quick(model=None, train=None, validation=None, **options):
    given = {"loss": BINARY, "epochs": 1, "batch_size": 4} | options
    return fit_pinet(model or Plain(), train or Squares(8), validation, **given)


def test_a_pinet_learns_what_and_with_masks_where():
    model = small_pinet()
    loss = PiNetLoss("binary", masks=100.0)
    done = fit_pinet(model, Squares(64, masks=True), Squares(32, seed=9), loss=loss, epochs=20, batch_size=16)
    test = Squares(32, seed=10, masks=True)
    with torch.no_grad():
        seen = model.eval().explain(test.images)
    right = (seen.logits[:, 0] > 0) == (torch.arange(32) % 2 == 1)
    assert right.float().mean() > 0.9
    inside, outside = (seen.coefficient_maps[test.masks == value].mean() for value in (1, 0))
    assert inside > 3 * outside
    assert done.metric == "accuracy"
    assert done.best["accuracy"] > 0.9


def test_the_model_ends_with_the_weights_of_the_best_validation():
    model, validation = small_pinet(), Squares(16, seed=3)
    done = quick(model, Squares(16), validation, epochs=4, learning_rate=0.05)
    with torch.no_grad():
        logits = model.eval().explain(validation.images).logits[:, 0]
    targets = (torch.arange(16) % 2).float()
    assert done.best["accuracy"] == max(row["accuracy"] for row in done.history)
    assert done.best["accuracy"] == ((logits > 0) == (targets > 0.5)).float().mean()
    loss = nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert done.best["validation_loss"] == pytest.approx(float(loss), rel=1e-6)
    last = small_pinet()
    quick(last, Squares(16), validation, epochs=4, learning_rate=0.05, keep="last")
    assert done.history[-1]["best"] is same_weights(last, weights(model))


def test_nothing_but_the_weights_changes():
    model = small_pinet().train()
    model.head.eval()
    frozen = model.head.decoder
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    kept = weights(frozen)
    before = {
        "modes": [module.training for module in model.modules()],
        "identities": [id(p) for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad for p in model.parameters()],
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
    }
    quick(model, Squares(16), Squares(8), epochs=2)
    assert [module.training for module in model.modules()] == before["modes"]
    assert [id(p) for p in model.parameters()] == before["identities"]
    assert [p.requires_grad for p in model.parameters()] == before["flags"]
    assert all(p.grad is g and (g == 1).all() for p, g in zip(model.parameters(), before["gradients"], strict=True))
    assert torch.equal(torch.get_rng_state(), before["torch"])
    assert random.getstate() == before["python"]
    assert np.random.get_state()[1].tolist() == before["numpy"]
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == before["hooks"]
    parameters = dict(frozen.named_parameters())
    assert all(torch.equal(parameters[name], kept[name]) for name in parameters)


class Broken(Squares):
    """Fails at the n-th item after the examination."""

    def __init__(self, count, fails_at, error):
        super().__init__(count)
        self.left, self.error = count + fails_at, error

    def __getitem__(self, i):
        self.left -= 1
        if self.left < -1:  # the first item is looked at once more
            raise self.error
        return super().__getitem__(i)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("disk on fire")])
def test_after_an_exception_too(error):
    model = small_pinet()
    with untouched(model), pytest.raises(type(error)):  # before a validation, the weights from before are the best
        quick(model, Broken(16, 6, error), Squares(8))


def test_processes_that_load_data_change_nothing():
    assert rows(fit(num_workers=1, epochs=1).history) == rows(fit(epochs=1).history)


def test_a_metric_that_never_has_a_value_keeps_what_was_learnt():
    """Labels that say no to everything: F1 is nothing over nothing once the model says no too."""
    model = conv_pinet(2, width=2, depth=2)
    with torch.no_grad():
        model.head.aggregator.a.fill_(-9)
    data = Squares(8, label=lambda i: [0, 0])
    with pytest.warns(FittingDataWarning):
        done = fit_pinet(model, data, data, loss=PiNetLoss("multilabel"), epochs=2, batch_size=4)
    assert math.isnan(done.best["f1"])
    assert done.best["epoch"] == 2
    assert model.head.aggregator.a[0] != -9


def test_two_runs_are_the_same_whatever_the_random_state():
    first, second = small_pinet(), small_pinet()
    one = fit(model=first)
    torch.rand(7)
    random.random()
    two = fit(model=second)
    assert rows(one.history) == rows(two.history)
    assert same_weights(first, weights(second))
    other = fit(seed=6)
    assert rows(other.history) != rows(one.history)


def test_augmentations_that_draw_from_any_generator_are_repeated():
    class Noisy(Squares):
        def __getitem__(self, i):
            image, label = super().__getitem__(i)
            return image + 0.1 * torch.rand(1) + 0.1 * random.random() + 0.1 * float(np.random.rand()), label

    assert rows(quick(train=Noisy(8)).history) == rows(quick(train=Noisy(8)).history)


@pytest.mark.parametrize(
    ("count", "size", "passes", "processes"), [(10, 3, 1, 1), (21, 4, 2, 1), (21, 2, 2, 2), (5, 1, 2, 2)]
)
def test_an_epoch_has_every_example_once_and_steps_of_one_size(count, size, passes, processes):
    plans = [
        epoch_plan(count, batch_size=size, passes=passes, processes=processes, rank=rank, seed=1, epoch=2)
        for rank in range(processes)
    ]
    steps = len(plans[0])
    assert steps == math.ceil(count / (size * passes * processes))
    seen, sizes = [], []
    for number in range(steps):
        pieces = [piece for plan in plans for piece in plan[number]]
        assert all(0 < len(piece.indices) <= size for piece in pieces)
        # the mean over a step: each process adds its pieces, the processes are averaged
        whole = [i for piece in pieces if piece.share for i in piece.indices]
        assert sum(piece.share for piece in pieces) == pytest.approx(1)
        assert [piece.share for piece in pieces if piece.share] == pytest.approx(
            [len(piece.indices) / len(whole) for piece in pieces if piece.share]
        )
        seen += whole
        sizes.append(len(whole))
    assert sorted(seen) == list(range(count))
    assert max(sizes) - min(sizes) <= 1


def test_epochs_are_shuffled_differently_and_processes_see_what_one_sees():
    one, other = (epoch_plan(12, batch_size=4, seed=1, epoch=epoch) for epoch in (0, 1))
    assert one != other
    pair = [epoch_plan(12, batch_size=2, processes=2, rank=rank, seed=1, epoch=0) for rank in (0, 1)]
    assert [step[0].indices for step in one] == [a[0].indices + b[0].indices for a, b in zip(*pair, strict=True)]


def test_accumulated_passes_step_like_one_large_batch():
    whole, parts = Plain(), Plain()
    loss = PiNetLoss("binary", parsimony=1e-3, feedback=1.0)
    for model, options in ((whole, {"batch_size": 8}), (parts, {"batch_size": 2, "gradient_accumulation_steps": 4})):
        quick(model, Squares(21), loss=loss, epochs=3, learning_rate=0.05, **options)
    for name, value in parts.state_dict().items():
        assert torch.allclose(value, whole.state_dict()[name], atol=1e-5), name


def test_mixed_precision_comes_and_goes():
    """Settings of ``accelerate`` are global to a program; neither a fit before nor the caller's own get in the way."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    own = Accelerator(mixed_precision="no", cpu=True)
    try:
        model = small_pinet()
        half = quick(model, Squares(16), Squares(8), epochs=1, mixed_precision="bf16")
        assert own.mixed_precision == "no"
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        plain = quick(small_pinet(), Squares(16), Squares(8), epochs=1)
        assert half.history[0]["loss"] != plain.history[0]["loss"]
        assert half.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=0.05)
    finally:
        AcceleratorState._reset_state(True)


def test_a_model_in_double_precision_is_fitted_in_it():
    model = Plain().double()
    quick(model)
    assert model.w.dtype == torch.float64
    assert model.w.item() != 1


def test_gradients_are_on_where_the_caller_has_them_off():
    with torch.no_grad():
        model = Plain()
        quick(model)
    assert model.w.item() != 1


def test_parameters_that_take_no_part_are_left_alone():
    model = Plain()
    model.idle = nn.Parameter(torch.ones(3))
    quick(model, learning_rate=0.1, weight_decay=0.5)
    assert model.idle.tolist() == [1, 1, 1]
    assert model.idle.requires_grad


@dataclass(frozen=True)
class WithBrightness(PiNetLoss):
    """One term more: the mean coefficient."""

    brightness: float = 0.0
    helper: nn.Module = field(default_factory=nn.Identity)

    @property
    def weights(self):
        return {"brightness": self.brightness, **super().weights}

    def term(self, name, seen, batch):
        return seen.coefficients.mean() if name == "brightness" else super().term(name, seen, batch)


def test_a_loss_may_have_a_term_of_its_own(tmp_path):
    loss = WithBrightness("binary", brightness=2.0)
    done = quick(loss=loss, out=tmp_path, learning_rate=1e-30)
    row = done.history[0]
    with torch.no_grad():
        wanted = Plain().explain(Squares(8).images).coefficients.mean()
    assert row["brightness"] == pytest.approx(float(wanted), rel=1e-6)
    assert row["loss"] == pytest.approx(row["prediction"] + 2 * row["brightness"], rel=1e-6)
    assert loss.settings()["helper"] == "Identity"


def test_stopping():
    data = {"train": Squares(16), "validation": Squares(8)}
    reached = quick(**data, epochs=9, stop_at=0.0)
    assert (reached.stopped, reached.epochs, len(reached.history)) == ("stop_at", 1, 1)
    stuck = quick(**data, epochs=9, patience=2, learning_rate=1e-12)
    assert (stuck.stopped, stuck.epochs) == ("patience", 3)
    assert quick(**data, epochs=2).stopped == "epochs"
    early = quick(**data, epochs=9, stop_at=0.0, validate_every=1)
    assert (early.steps, early.epochs) == (1, 1)


def test_the_learning_rate_follows_its_schedule():
    cosine = quick(epochs=4, schedule="cosine", learning_rate=0.1)
    wanted = [0.1 * (1 + math.cos(math.pi * step / 8)) / 2 for step in (2, 4, 6, 8)]
    assert [row["learning_rate"] for row in cosine.history] == pytest.approx(wanted, abs=1e-9)
    uphill = {"optimizer": lambda ps: torch.optim.SGD(ps, lr=4e-4, maximize=True)}  # a loss that never falls
    flat = quick(epochs=99, schedule="plateau", **uphill)
    assert flat.stopped == "plateau"
    rates = list(dict.fromkeys(row["learning_rate"] for row in flat.history))
    assert rates == pytest.approx([4e-4, 8e-5, 1.6e-5])


def test_the_log_has_every_row_on_disk(tmp_path):
    heard = []
    done = fit(tmp_path, log=heard.append)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == heard == done.history
    assert [float(row["loss"]) for row in table] == [row["loss"] for row in heard]
    assert [row["step"] for row in heard] == [2, 3, 5, 6, 8, 9]
    assert list(table[0]) == [
        *("epoch", "step", "seconds", "learning_rate", "loss", "prediction", "feedback", "parsimony"),
        *("validation_loss", "accuracy", "best"),
    ]


def test_tensorboard_gets_the_rows_where_it_is_installed(tmp_path, monkeypatch):
    written, closed = [], []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def flush(self):
            pass

        def close(self):
            closed.append(True)

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    done = fit(tmp_path)
    assert written[0] == (str(tmp_path / "tensorboard"), 0)
    assert ("loss", done.history[1]["loss"], 3) in written
    assert ("accuracy", done.history[1]["accuracy"], 3) in written
    assert closed == [True]


def test_a_launchers_word_on_accumulation_does_not_change_the_gradients(monkeypatch):
    plain, launched = Plain(), Plain()
    options = {"optimizer": lambda ps: torch.optim.SGD(ps, lr=1.0)}
    quick(plain, **options)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    quick(launched, **options)
    assert plain.w.item() == launched.w.item()


def test_the_loss_of_a_row_is_the_mean_over_its_steps():
    model, data = Plain(), Squares(10)
    done = quick(model, data, learning_rate=1e-30, batch_size=3, loss=PiNetLoss("binary", parsimony=0.5))
    with torch.no_grad():
        seen = Plain().explain(data.images)
    targets = (torch.arange(10) % 2).float()[:, None]
    plan = epoch_plan(10, batch_size=3, seed=0, epoch=0)
    each = nn.functional.binary_cross_entropy_with_logits(seen.logits, targets, reduction="none")
    wanted = np.mean([float(each[list(step[0].indices)].mean()) for step in plan])
    assert done.history[0]["prediction"] == pytest.approx(wanted, rel=1e-6)
    assert done.history[0]["loss"] == pytest.approx(wanted + 0.5 * done.history[0]["parsimony"], rel=1e-6)


def test_a_frozen_backbone_is_the_teacher_if_no_other_is_given():
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.net(x).mean((2, 3)))

    class Encoder(nn.Module):
        def __init__(self, backbone):
            super().__init__()
            self.backbone, self.channels = backbone, (4,)

        def forward(self, x):
            return [self.backbone.net(x)]

    from xai_align.pinet import PiNet

    backbone = Backbone().eval()
    head = SecondLookHead((4,), 3, z="evidence", classifier=backbone.fc, width=4)
    model = PiNet(FrozenEncoder(Encoder(backbone)), head)
    before = weights(backbone)
    loss = PiNetLoss("multiclass", prediction=0.0, distillation=1.0, temperature=2.0)
    done = fit_pinet(model, Squares(12), Squares(6), loss=loss, epochs=1, batch_size=4)
    assert same_weights(backbone, before)
    assert done.history[0]["distillation"] < 1e-4  # it starts as its teacher
    assert done.history[0]["accuracy"] == 1  # that is: agreement
    with pytest.raises(ValueError, match="no frozen backbone with logits of its own"):
        quick(loss=PiNetLoss("binary", distillation=1.0))
    shared = small_pinet().eval()
    with pytest.raises(ValueError, match="shares parameters with what is trained"):
        quick(shared, loss=PiNetLoss("binary", distillation=1.0), teacher=shared)
    with pytest.raises(ValueError, match=r"the teacher gave \[4, 2\]; it must give logits \[4, 1\]"):
        quick(loss=PiNetLoss("binary", distillation=1.0), teacher=lambda x: torch.zeros(len(x), 2))


@pytest.mark.parametrize(
    ("task", "label", "classes", "metric"),
    [
        ("multiclass", int, 2, "accuracy"),
        ("multilabel", lambda i: [i, 1 - i], 2, "f1"),
        ("regression", lambda i: torch.tensor([9.0 * i, 64 - 9.0 * i]), 2, "mae"),
        ("segmentation", lambda i: torch.full((8, 8), i), 2, "iou"),
    ],
)
def test_every_task_trains(task, label, classes, metric):
    activation = "softmax" if task in ("regression", "segmentation") else "sigmoid"
    soft = {"second_look": "soft", "scale": "one", "bias": "zero"} if task == "regression" else {}
    model = conv_pinet(classes, width=4, depth=2, activation=activation, size=8, **soft)
    data = Squares(16, label=label), Squares(8, seed=1, label=label)
    done = fit_pinet(model, *data, loss=PiNetLoss(task), epochs=4, batch_size=8)
    assert done.metric == metric
    assert done.history[-1]["loss"] < done.history[0]["loss"]


def counted(task, logits, targets, maps=None):
    metric = metric_of(task)
    seen = SimpleNamespace(logits=torch.tensor(logits), coefficient_maps=maps)
    return metric.value(metric.counts(seen, Batch(torch.zeros(1), torch.tensor(targets))))


def test_what_validation_measures():
    assert counted("multiclass", [[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]], [1, 1, 1]) == pytest.approx(2 / 3)
    assert counted("binary", [[1.0], [-1.0]], [[1.0], [1.0]]) == 0.5
    assert counted("multilabel", [[1.0, -1.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 1.0]]) == pytest.approx(2 * 2 / (3 + 3))
    assert counted("regression", [[3.0, 0.0]], [[1.0, 1.0]]) == 1.5
    maps = torch.tensor([[[[0.9, 0.8, 0.2]], [[0.1, 0.2, 0.8]], [[0.0, 0.0, 0.0]]]])
    # class 0: 1 of 2 places; class 1: 1 of 2; class 2 occurs nowhere
    assert counted("segmentation", [[0.0] * 3], [[[0, 1, 1]]], maps) == pytest.approx(0.5)
    assert not metric_of("regression").higher_is_better
    assert metric_of("regression").is_better(1.0, NAN)
    assert not metric_of("binary").is_better(NAN, 0.0)
