"""The trainer: whose turn it is, who learns from what, what is left as it was, and what is kept."""

from __future__ import annotations

import csv
import json
import random

import numpy as np
import pytest
import torch
from align_factory import (
    PLAN,
    Bars,
    bends,
    fit,
    loader,
    rows,
    same_weights,
    small_masker,
    trained_by_name,
    trainer,
    weights,
)
from hypothesis import given, settings
from hypothesis import strategies as some
from networks import untouched
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from xai_align.align import AlignTrainer, ShortcutWarning, recipe
from xai_align.align.recipes import RECIPES
from xai_align.align.training.phases import Plan, PlanPosition, after_epoch, after_step, first_position, turn_at
from xai_align.align.training.seeded_loader import SeededLoader, preserved_loader_state
from xai_align.align.training.updates import Updater
from xai_align.training.diverged import DivergedError

pytestmark = [
    pytest.mark.filterwarnings("ignore::xai_align.align.CollapseWarning"),
    pytest.mark.filterwarnings("ignore::xai_align.align.ShortcutWarning"),
]

# whose turn it is


def walk(plan, epochs, steps):
    """The turns of so many epochs, an inner list for each."""
    position, found = first_position(plan), []
    for _ in range(epochs):
        found.append([])
        for _ in range(steps):
            found[-1].append((position.phase, turn_at(plan, position)))
            position = after_step(plan, position)
        position = after_epoch(plan, position)
    return found


def letters(plan, epochs, steps):
    """w: warm-up, m: the masker alone, b: both, c: the classifier alone on all terms."""
    names = {(False, False): "w", (False, True): "c", (True, False): "m", (True, True): "b"}
    told = []
    for epoch in walk(plan, epochs, steps):
        told.append("".join("m" if not turn.classifier else names[turn.masker, turn.with_masks] for _, turn in epoch))
    return " ".join(told)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (Plan(), "bbb bbb bbb bbb"),
        (Plan(masker_every=2), "bcb cbc bcb cbc"),
        (Plan(warmup_epochs=1), "www bbb bbb bbb"),
        (Plan(warmup_steps=4), "www wbb bbb bbb"),
        (Plan(warmup_epochs=1, warmup_steps=4), "www wbb bbb bbb"),
        (Plan(warmup_epochs=2, warmup_steps=4), "www www bbb bbb"),
        (Plan(warmup_epochs=1, masker_only_epochs=1), "www mmm bbb bbb"),
        (Plan(warmup_steps=1, masker_only_epochs=1), "wmm bbb bbb bbb"),
        (Plan(warmup_steps=2, masker_only_steps=3, masker_every=3), "wwm mmb ccb ccb"),
        (Plan(alternation="epoch"), "mmm ccc mmm ccc"),
        (Plan(alternation="epoch", masker_epochs=2, classifier_epochs=1), "mmm mmm ccc mmm"),
        (Plan(alternation="epoch", warmup_epochs=1), "www mmm ccc mmm"),
        (Plan(warmup_epochs=1, masker_only_epochs=1, with_masker=False), "www ccc ccc ccc"),
        (Plan(with_masker=False, alternation="epoch"), "ccc ccc ccc ccc"),
        (Plan(with_masker=False, with_mask_source=False, warmup_epochs=2), "ccc ccc ccc ccc"),
    ],
)
def test_turns_by_hand(plan, told):
    assert letters(plan, 4, 3) == told


plans = some.builds(
    Plan,
    warmup_epochs=some.integers(0, 3),
    warmup_steps=some.integers(0, 9),
    masker_only_epochs=some.integers(0, 3),
    masker_only_steps=some.integers(0, 9),
    alternation=some.sampled_from(["batch", "epoch"]),
    masker_every=some.integers(1, 4),
    masker_epochs=some.integers(1, 3),
    classifier_epochs=some.integers(1, 3),
    with_masker=some.booleans(),
    with_mask_source=some.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(plan=plans, steps=some.integers(1, 4))
def test_turns_in_general(plan, steps):
    epochs = walk(plan, 14, steps)
    flat = [step for epoch in epochs for step in epoch]
    phases = [phase for phase, _ in flat]
    assert phases == sorted(phases, key=["warmup", "masker", "together"].index)  # one after the other
    assert all(turn.masker or turn.classifier for _, turn in flat)  # no batch is wasted
    assert all(plan.with_masker or not turn.masker for _, turn in flat)
    warm = [turn for phase, turn in flat if phase == "warmup"]
    if not (plan.with_masker or plan.with_mask_source):
        assert not warm
    elif len(warm) < len(flat):
        assert len(warm) >= plan.warmup_steps
        assert len(warm) >= plan.warmup_epochs * steps
        assert len(warm) <= plan.warmup_steps + plan.warmup_epochs * steps
    together = [turn for phase, turn in flat if phase == "together"]
    if plan.with_masker and plan.alternation == "batch":
        assert [turn.masker for turn in together] == [i % plan.masker_every == 0 for i in range(len(together))]
    if plan.alternation == "epoch":
        assert all(len({turn for phase, turn in epoch if phase == "together"}) <= 1 for epoch in epochs)


def test_a_place_is_all_that_is_needed_to_go_on():
    plan = Plan(warmup_steps=2, masker_only_steps=3, masker_every=2)
    position = after_step(plan, after_step(plan, first_position(plan)))
    assert position == PlanPosition(phase="masker")
    assert turn_at(plan, PlanPosition(phase=position.phase, epochs=position.epochs, steps=position.steps)) == turn_at(
        plan, position
    )


# who learns from what


def step_of(made, who):
    batch = Bars(12).images, Bars(12).labels
    return (made.masker_step if who == "masker" else made.classifier_step)(batch)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_step_of_the_masker_leaves_the_classifier_alone(mode):
    made = trainer()
    getattr(made.classifier, mode)()
    before = weights(made.masker)
    with untouched(made.classifier):
        told = step_of(made, "masker")
    assert not same_weights(made.masker, before)
    assert {"masker_loss", "distinction", "mask_mean", "mask_std", "p_keep", "p_drop"} <= told.keys()
    assert told["masker_loss"] == pytest.approx(
        told["distinction"] + 2 * told["sparsity"] + 0.1 * told["smoothness"], rel=1e-5
    )
    assert told["sparsity"] == pytest.approx(told["mask_mean"], rel=1e-5)


def test_a_step_of_the_classifier_leaves_the_masker_alone():
    made = trainer()
    before, rng = weights(made.classifier), torch.get_rng_state()
    with untouched(made.masker):
        told = step_of(made, "classifier")
    assert not same_weights(made.classifier, before)
    assert torch.equal(torch.get_rng_state(), rng)
    parts = told["classification"] + told["alignment"] + told["mixup"]
    assert told["loss"] == pytest.approx(parts, rel=1e-5)
    assert all(p.grad is None for p in made.classifier.parameters())


@pytest.mark.parametrize("schedule", ["none", "cosine"])
def test_single_steps_leave_learning_rates_to_the_caller(schedule):
    made = trainer(schedule=schedule)
    step_of(made, "classifier")
    for rate in (1e-3, 2e-4):
        for group in made.state.updaters["classifier"].optimizer.param_groups:
            group["lr"] = rate
        step_of(made, "classifier")
        assert made.state.updaters["classifier"].learning_rate == rate


def test_gradients_of_the_callers_own_stay():
    made = trainer()
    kept = torch.full_like(made.classifier.fc.weight, 3.0)
    made.classifier.fc.weight.grad = kept
    step_of(made, "classifier")
    step_of(made, "masker")
    made.fit(loader(), epochs=1)
    assert made.classifier.fc.weight.grad is kept
    assert (kept == 3).all()


@pytest.mark.parametrize("name", [spec.name for spec in RECIPES])
def test_every_recipe_trains(name):
    made, done, before = trained_by_name(name)
    assert not same_weights(done.classifier, before)
    assert (done.masker is not None) == made.recipe.trains_masker
    assert all(np.isfinite(row["loss"]) for row in done.history)
    assert {term.name for term in made.recipe.terms} <= done.history[0].keys()
    assert done.history[0]["step"] == 3


def test_a_term_that_is_turned_off_does_not_change_what_comes_next():
    """The order of the data, the pairs that are mixed and dropout hang on the seed and the number of the step alone."""
    seen = {name: [] for name in ("erm", "dre", "align")}

    class Recording(nn.Module):
        def __init__(self, heard):
            super().__init__()
            self.inner, self.heard = bends(), heard

        def forward(self, x):
            if self.training:
                self.heard.append(x.detach().clone())
            return self.inner(x)

    for name, heard in seen.items():
        options = {} if name == "erm" else {"mixup_share": 1.0}
        trainer(Recording(heard), recipe=recipe(name, **options)).fit(loader(), epochs=2)
    clean = {"erm": seen["erm"], "dre": seen["dre"][::2], "align": seen["align"][::2]}
    for name in ("dre", "align"):
        assert all(torch.equal(a, b) for a, b in zip(clean["erm"], clean[name], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(seen["dre"][1::2], seen["align"][1::2], strict=True))


# modes


def modes(model):
    return [module.training for module in model.modules()]


class Watched(nn.Module):
    """Remembers in which mode its batch norm was at each pass."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen = bends(), []

    def forward(self, x):
        self.seen.append(self.inner.norm.training)
        return self.inner(x)


@pytest.mark.parametrize("whole", ["eval", "train"])
def test_a_classifier_trains_in_train_mode_and_comes_back_as_it_was(whole):
    classifier = getattr(Watched(), whole)()
    before = modes(classifier)
    trainer(classifier).fit(loader(), epochs=1)
    assert modes(classifier) == before
    assert True in classifier.seen
    assert False in classifier.seen  # the masker's turns


@pytest.mark.parametrize("by", ["hand", "option"])
def test_frozen_batch_norm_stays_frozen(by):
    classifier = Watched().train()
    if by == "hand":
        classifier.inner.norm.eval()
    before, mean = modes(classifier), classifier.inner.norm.running_mean.clone()
    trainer(classifier, freeze_batch_norm=by == "option").fit(loader(), epochs=1)
    assert modes(classifier) == before
    assert True not in classifier.seen
    assert torch.equal(classifier.inner.norm.running_mean, mean)


def test_frozen_parameters_stay_frozen():
    classifier = bends()
    classifier.one.requires_grad_(False)
    before = weights(classifier)
    trainer(classifier, weight_decay=0.1).fit(loader(), epochs=1)
    assert torch.equal(classifier.one.weight, before["one.weight"])
    assert not classifier.one.weight.requires_grad
    assert not torch.equal(classifier.two.weight, before["two.weight"])


def test_nothing_of_the_callers_is_left_changed_but_the_weights():
    classifier, masker = bends().eval(), small_masker()
    data = loader(generator=torch.Generator().manual_seed(3))
    state = data.generator.get_state()
    before = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), modes(classifier)]
    hooks = [len(module._forward_hooks) for module in classifier.modules()]
    trainer(classifier, masker).fit(data, loader(9), epochs=2)
    after = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), modes(classifier)]
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert hooks == [len(module._forward_hooks) for module in classifier.modules()]
    assert torch.equal(data.generator.get_state(), state)
    assert all(p.requires_grad and p.grad is None for p in [*classifier.parameters(), *masker.parameters()])


# the same again


class Shuffled:
    """A loader of one's own that draws from every generator there is."""

    def __init__(self):
        self.bars = Bars(12)

    def __iter__(self):
        order = torch.randperm(12)
        for part in order.split(4):
            noise = random.random() + np.random.rand() + torch.rand(())
            yield self.bars.images[part] + 0.01 * noise, self.bars.labels[part]


def own_generator():
    return loader(generator=torch.Generator().manual_seed(1))


def own_sampler():
    return DataLoader(Bars(24), batch_size=8, sampler=RandomSampler(Bars(24), generator=torch.Generator()))


@pytest.mark.parametrize("make", [loader, Shuffled, own_generator, own_sampler])
def test_two_fits_are_the_same_whatever_was_drawn_before(make):
    found = []
    data = make()
    for disturbance in range(2):
        torch.rand(disturbance * 7)
        np.random.rand(disturbance * 3)
        random.random()
        classifier = bends()
        done = trainer(classifier).fit(data, epochs=2)
        found.append((rows(done.history), weights(classifier)))
    assert found[0][0] == found[1][0]
    assert same_weights(classifier, found[0][1])


def test_epochs_have_different_orders_and_each_its_own_again():
    stream = SeededLoader(loader(12, batch_size=12), 5, "the training data")
    first, second, again = (next(images for images, _ in stream.epoch(number)) for number in (0, 1, 0))
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_a_sampler_is_told_the_epoch_and_gets_its_own_back():
    class Sampler:
        epoch, told = 7, []

        def set_epoch(self, epoch):
            self.told.append(epoch)
            self.epoch = epoch

        def __iter__(self):
            return iter(range(12))

        def __len__(self):
            return 12

    data = DataLoader(Bars(12), batch_size=6, sampler=Sampler())
    with preserved_loader_state(data):
        list(SeededLoader(data, 0, "the training data").epoch(3))
        assert data.sampler.epoch == 3
    assert data.sampler.epoch == 7


def test_workers_load_the_same(tmp_path):
    plain = trainer().fit(loader(), epochs=1)
    loaded = trainer().fit(loader(num_workers=1), epochs=1)
    assert rows(plain.history) == rows(loaded.history)
    kept = trainer(out=tmp_path).fit(loader(num_workers=1, persistent_workers=True), epochs=1)
    assert "persistent workers, whose random states continue" in kept.notes[0]


# what is kept


def test_the_best_epoch_in_turn_is_kept():
    """A scripted accuracy: the warm-up's .9 does not count, the best in turn is epoch 4, the later of two equals."""
    made, told = trainer(**PLAN, keep="best", schedule="none"), [0.9, 0.2, 0.5, 0.6, 0.6, 0.1]
    marks = []

    def scripted(*args, **options):
        marks.append(weights(made.classifier))
        return {"validation_loss": 1.0, "accuracy": told[len(marks) - 1], "macro_accuracy": 0.0, "worst_class": 0.0}

    from xai_align.align.training import program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "validate", scripted)
        done = made.fit(loader(), loader(6), epochs=6)
    assert [row["phase"] for row in done.history[:3]] == ["warmup", "masker", "together"]
    assert [row["best"] for row in done.history] == [False, False, True, True, True, False]
    assert done.best["epoch"] == 5
    assert same_weights(done.classifier, marks[4])


def test_the_last_is_kept_where_that_is_wanted_or_nothing_is_measured():
    best = trainer(keep="last", schedule="none")
    twin = trainer(schedule="none")
    one = best.fit(loader(), loader(9), epochs=3)
    two = twin.fit(loader(), epochs=3)
    assert same_weights(one.classifier, weights(two.classifier))
    assert two.best is None
    assert "accuracy" not in two.history[0]
    assert one.stopped == two.stopped == "epochs"


def test_without_an_epoch_in_turn_there_is_no_best():
    done = trainer(warmup_epochs=9).fit(loader(), loader(9), epochs=2)
    assert done.best is None
    assert any("both networks trained in no epoch" in note for note in done.notes)


def test_patience_counts_validations_in_turn():
    made = trainer(bends(batch_norm=False), warmup_epochs=2, learning_rate=1e-9, patience=2)
    done = made.fit(loader(), loader(9), epochs=9)
    assert (done.epochs, done.stopped) == (5, "patience")  # two of warm-up, the first in turn, and two no better


def test_validation_by_hand():
    """Bars, squares and a classifier that always says 0: 3 of 8 are right; class 0 all, the others none."""

    class Zero(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bias = nn.Conv2d(1, 3, 1), nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))

        def forward(self, x):
            return 0 * self.conv(x).mean((2, 3)) + self.bias

    made = AlignTrainer(Zero(), recipe="erm", learning_rate=1e-9)
    (row,) = made.fit(loader(6), [next(iter(DataLoader(Bars(8), batch_size=8)))], epochs=1).history
    assert row["accuracy"] == pytest.approx(3 / 8)
    assert row["macro_accuracy"] == pytest.approx(1 / 3)
    assert row["worst_class"] == 0
    log_sum = np.log(np.e + 2)
    assert row["validation_loss"] == pytest.approx((3 * (log_sum - 1) + 5 * log_sum) / 8, rel=1e-5)


def test_cosine_falls_from_the_full_rate_and_none_stays():
    falling = [row["learning_rate"] for row in trainer(learning_rate=0.01).fit(loader(), epochs=4).history]
    wanted = [0.005 * (1 + np.cos(np.pi * (3 * epoch + 2) / 12)) for epoch in range(4)]  # of the last of three steps
    assert falling == pytest.approx(wanted)
    steady = trainer(learning_rate=0.01, schedule="none").fit(loader(), epochs=2).history
    assert [row["learning_rate"] for row in steady] == [0.01, 0.01]


def test_gradients_are_clipped():
    done, batch = {}, next(iter(loader()))
    for clip in (None, 1e-6):
        classifier = bends(batch_norm=False)
        made = trainer(
            classifier,
            recipe="erm",
            gradient_clip=clip,
            schedule="none",
            classifier_optimizer=lambda ps: torch.optim.SGD(ps, lr=1.0),
        )
        before = weights(classifier)
        history = made.fit([batch], epochs=1).history
        moved = sum((value - before[name]).square().sum() for name, value in classifier.state_dict().items()).sqrt()
        done[clip] = (history[0]["gradient_norm"], moved.item())
    assert done[None][0] == pytest.approx(done[None][1], rel=1e-3)  # SGD at rate 1 moves by the gradient
    assert done[1e-6][0] == pytest.approx(done[None][0])  # what is told is the norm before clipping
    assert done[1e-6][1] == pytest.approx(1e-6, rel=0.1)


# what is told


def test_rows_are_told_and_written(tmp_path):
    heard = []
    done = fit(tmp_path, log=heard.append)
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows(heard) == rows(written) == rows(done.history)
    with (tmp_path / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["phase"] for row in table] == ["warmup", "masker", "together", "together", "together"]
    for row, line in zip(done.history, table, strict=True):
        assert line["loss"] == ("" if row["loss"] is None else str(row["loss"]))
        assert line["excess"] == str(row.get("excess", ""))  # a column that is there from the third row on
    known = {"epoch", "step", "seconds", "phase", "learning_rate", "loss", "classification", "alignment", "mixup"}
    known |= {"masker_loss", "distinction", "p_keep", "p_drop", "mask_mean", "mask_std", "mask_high", "mask_low"}
    known |= {"dead_cams", "gradient_norm", "validation_loss", "accuracy", "macro_accuracy", "worst_class", "best"}
    assert known <= done.history[-1].keys()


def test_figures_are_drawn_on_demand(tmp_path):
    fit(tmp_path, epochs=4, figure_every=2)
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["epoch-002.png", "epoch-004.png"]
    assert (tmp_path / "figures/epoch-004.png").read_bytes().startswith(b"\x89PNG")


def test_a_bar_shows_what_matters(capsys):
    trainer(show_progress=True).fit(loader(), loader(9), epochs=2)
    assert "Traceback" not in capsys.readouterr().err


def test_a_background_that_goes_with_the_label_is_warned_of():
    """The whole image is darker or lighter by its class, and that is all there is."""
    labels = torch.arange(60) % 3
    images = torch.rand(60, 1, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.2 + labels[:, None, None, None]
    data = [(images[part], labels[part]) for part in torch.arange(60).split(20)]
    made = trainer(bends(dropout=0.0), learning_rate=0.02, masker_learning_rate=0.01, schedule="none", keep="last")
    with pytest.warns(ShortcutWarning):
        done = made.fit(data, epochs=12)
    assert any("colour" in note for note in done.notes)


# networks of other kinds


def test_weights_of_ones_own_for_the_terms():
    made = trainer(recipe=recipe("align", alignment=0.5, mixup=0.0, class_weights=[1.0, 2.0, 3.0]))
    told = step_of(made, "classifier")
    assert "mixup" not in told
    assert told["loss"] == pytest.approx(told["classification"] + 0.5 * told["alignment"], rel=1e-5)


def test_double_precision_trains():
    classifier, masker = bends().double(), small_masker().double()
    done = trainer(classifier, masker).fit(loader(), loader(9), epochs=1)
    assert classifier.fc.weight.dtype == torch.float64
    assert np.isfinite(done.history[0]["loss"])


def test_bfloat16_trains_with_losses_in_float32():
    done = trainer(mixed_precision="bf16").fit(loader(), loader(9), epochs=2)
    plain = trainer().fit(loader(), loader(9), epochs=2)
    assert done.classifier.fc.weight.dtype == torch.float32
    for one, two in zip(done.history, plain.history, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=0.2)


def test_images_of_several_sizes_and_odd_ones():
    data = [(torch.rand(4, 1, 13, 17), torch.tensor([0, 1, 2, 0])), (torch.rand(2, 1, 9, 30), torch.tensor([1, 2]))]
    assert trainer().fit(data, epochs=1).steps == 2
    with pytest.raises(ValueError, match="a step's batches hold images of several shapes"):
        trainer(gradient_accumulation_steps=2).fit(data, epochs=1)


def test_a_second_order_cam_trains_the_head_through_its_weights():
    one, two = bends(dropout=0.0), bends(dropout=0.0)
    aligned = recipe("align", mixup=0.0, alignment=5.0)
    trainer(one, recipe=aligned, order="first").fit(loader(), epochs=1)
    trainer(two, recipe=aligned, order="second").fit(loader(), epochs=1)
    assert not torch.equal(one.fc.weight, two.fc.weight)


# one step of an optimiser


def updater(**options):
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    return Updater([parameter], torch.optim.SGD([parameter], lr=0.5), name="classifier", **options)


def test_a_step_by_hand():
    one = updater(gradient_clip=None)
    norm = one.step([torch.tensor([3.0, 4.0])], torch.tensor(1.0))
    assert norm.item() == 5
    assert one.parameters[0].tolist() == [1 - 0.5 * 3, 2 - 0.5 * 4]
    assert one.parameters[0].grad is None
    clipped = updater(gradient_clip=1.0)
    clipped.set_rate(0.1)
    clipped.step([torch.tensor([3.0, 4.0])], torch.tensor(1.0))
    assert clipped.parameters[0].tolist() == pytest.approx([1 - 0.05 * 0.6, 2 - 0.05 * 0.8])
    assert clipped.learning_rate == 0.05


def test_scaled_gradients_are_the_same_and_infinite_ones_are_passed_over():
    """As float16 on a GPU needs it."""
    one = updater(gradient_clip=None, scaler=torch.amp.GradScaler("cpu"))
    scale = one.scaled(torch.tensor(1.0)).item()
    assert scale > 1000
    one.step([torch.tensor([3.0, 4.0]) * scale], torch.tensor(1.0))
    assert one.parameters[0].tolist() == pytest.approx([-0.5, 0.0])
    one.step([torch.tensor([float("inf"), 4.0])], torch.tensor(1.0))
    assert one.parameters[0].tolist() == pytest.approx([-0.5, 0.0])
    assert one.scaled(torch.tensor(1.0)).item() == scale / 2
    with pytest.raises(DivergedError, match="the loss of the classifier was nan"):
        one.step([torch.tensor([3.0, 4.0])], torch.tensor(float("nan")))


def test_a_gradient_that_is_no_number_changes_nothing():
    one = updater(gradient_clip=1.0)
    with pytest.raises(DivergedError, match="was 1, but its gradient was nan"):
        one.step([torch.tensor([float("nan"), 4.0])], torch.tensor(1.0))
    assert one.parameters[0].tolist() == [1, 2]


def test_parameters_without_a_gradient_are_left_alone():
    """Also by weight decay, as the optimisers do it."""
    used, unused = (nn.Parameter(torch.tensor(1.0)) for _ in range(2))
    optimizer = torch.optim.AdamW([used, unused], lr=0.1, weight_decay=0.5)
    one = Updater([used, unused], optimizer, gradient_clip=None, name="classifier")
    one.step([torch.tensor(1.0), None], torch.tensor(1.0))
    assert used.item() != 1
    assert unused.item() == 1


@pytest.mark.parametrize("options", [{"order": "second"}, {"recipe": "rrr"}, {"mixed_precision": "bf16"}])
def test_attention_is_differentiated_twice_where_that_is_needed(options):
    """Its fused kernels have one derivative only."""
    import timm

    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", num_classes=3, img_size=16, patch_size=4, in_chans=1, embed_dim=12, depth=2, num_heads=2
    )
    images, labels = torch.randn(6, 1, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    masks = (torch.rand(6, 1, 16, 16) > 0.5).float()
    done = AlignTrainer(vit, **options).fit([(images, labels, masks)], epochs=2)
    assert all(np.isfinite(row["loss"]) for row in done.history)
