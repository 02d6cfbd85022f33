"""Masks that are full, empty or flat are noticed, told of, and led out of it."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from align_factory import bends, loader, trainer, weights

from xai_align.align import AlignTrainer, CollapseWarning, Masker, ShortcutWarning, recipe
from xai_align.align.terms.masker_terms import Distinction, Smoothness, Sparsity
from xai_align.align.training.collapse import collapsed, dead_message, idle_message
from xai_align.align.training.collapse_responses import (
    AdjustedSparsity,
    AreaLimits,
    CollapseArea,
    CollapseResponse,
    response_to,
)

TERMS = (Distinction(), Sparsity(weight=2.0), Smoothness())


@pytest.mark.parametrize(
    ("mean", "std", "kind"),
    [
        (0.96, 0.1, "full"),
        (0.94, 0.1, None),
        (0.009, 0.1, "empty"),
        (0.011, 0.1, None),
        (0.5, 0.019, "flat"),
        (0.5, 0.021, None),
        (1.0, 0.0, "full"),  # flat as well, but that it is full says more
        (0.0, 0.0, "empty"),
    ],
)
def test_what_masks_have_become(mean, std, kind):
    assert collapsed(mean, std) == kind


def test_cams_that_died_are_told_of():
    assert dead_message(0.33, epoch=2) is None
    assert dead_message(float("nan"), epoch=2) is None
    assert "epoch 2: 34% of the CAMs are zero everywhere" in dead_message(0.34, epoch=2)


def test_masks_that_tell_nothing_in_the_end_are_told_of():
    assert idle_message(None, None) is None
    assert idle_message(0.6, 0.4) is None
    assert "0.85 and 0.80" in idle_message(0.85, 0.80)
    assert "another_image" in idle_message(0.85, 0.80, baseline=0.0)
    assert "another_image" not in idle_message(0.85, 0.80, baseline="another_image")


def weight_of(answer, name):
    return {term.name: weight for term, weight in answer.weighted_terms(TERMS)}.get(name)


def test_nothing_is_done_but_the_warning():
    answer = CollapseResponse()
    for kind in ("full", "empty", "flat"):
        answer.update(kind, 0.5)
        assert answer.weighted_terms(TERMS) == [(term, term.weight) for term in TERMS]
    assert "Nothing is changed" in answer.description


def test_the_area_limit_falls_from_one_to_its_end_and_stays():
    answer = AreaLimits(lowest=0.35, epochs=4, weight=5.0)
    answer.update(None, 0.6)
    assert weight_of(answer, "collapse_area") is None
    limits = []
    for kind in ("full", "full", None, None, None, "flat"):  # it goes on, whatever the masks have become by then
        answer.update(kind, 0.99)
        (hinge,) = [term for term, _ in answer.weighted_terms(TERMS) if isinstance(term, CollapseArea)]
        limits.append(hinge.limit)
        assert hinge.least == 0
    assert limits == pytest.approx([0.8375, 0.675, 0.5125, 0.35, 0.35, 0.35])
    assert weight_of(answer, "collapse_area") == 5.0


def test_empty_masks_get_a_floor_that_outweighs_the_sparsity():
    answer = AreaLimits(floor=0.1, weight=5.0)
    answer.update("empty", 0.001)
    (hinge,) = [term for term, _ in answer.weighted_terms(TERMS) if isinstance(term, CollapseArea)]
    assert (hinge.limit, hinge.least) == (1.0, 0.1)
    assert weight_of(answer, "collapse_area") == 7.0
    assert "minimum area is set to 0.1" in answer.description


@pytest.mark.parametrize(("mean", "limited"), [(0.6, True), (0.2, False)])
def test_flat_masks_count_as_full_or_empty_by_their_mean(mean, limited):
    answer = AreaLimits()
    answer.update("flat", mean)
    assert (answer.limit < 1) == limited


def test_the_weight_of_sparsity_is_doubled_and_halved():
    answer, found = AdjustedSparsity(), []
    for kind in ("full", "full", None, "empty", "empty", "empty"):
        answer.update(kind, 0.5)
        found.append(weight_of(answer, "sparsity"))
    assert found == [4, 8, 8, 4, 2, 1]
    assert [term.weight for term in TERMS] == [1, 2, 0.1]  # the terms themselves are the caller's


def test_no_sparsity_at_all_is_raised_too():
    answer = AdjustedSparsity(least=0.5)
    nothing = (Distinction(), Sparsity(weight=0.0))
    answer.update("full", 1.0)
    assert {term.name: weight for term, weight in answer.weighted_terms(nothing)}["sparsity"] == 0.5
    answer.update("full", 1.0)
    assert {term.name: weight for term, weight in answer.weighted_terms((Distinction(),))}["sparsity"] == 1.0


@pytest.mark.parametrize("name", ["area", "sparsity", "warn"])
def test_the_state_of_an_answer_goes_on(name):
    one, two = response_to(name), response_to(name)
    for kind, mean in (("full", 0.99), ("empty", 0.001), ("full", 0.99), ("full", 0.99)):
        one.update(kind, mean)
    two.load_state_dict(one.state_dict())
    assert [(term.name, weight) for term, weight in one.weighted_terms(TERMS)] == [
        (term.name, weight) for term, weight in two.weighted_terms(TERMS)
    ]
    assert one.description == two.description


def test_the_hinge_reaches_saturated_masks():
    """By hand: mean .9 is .4 above the limit .5, whose logit is 0; the mean logit is log(9) = 2.197."""
    hinge = CollapseArea(limit=0.5, draw=0.1)
    masks = torch.full((1, 1, 2, 2), 0.9)
    assert hinge(SimpleNamespace(masks=masks)).item() == pytest.approx(0.4 + 0.1 * 2.1972, rel=1e-4)
    low = CollapseArea(limit=1.0, least=0.5, draw=0.1)
    assert low(SimpleNamespace(masks=1 - masks)).item() == pytest.approx(0.4 + 0.1 * 2.1972, rel=1e-4)
    inside = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    assert hinge(SimpleNamespace(masks=inside)).item() == 0
    logits = torch.full((1, 1, 2, 2), 14.0, requires_grad=True)
    gradient = torch.autograd.grad(hinge(SimpleNamespace(masks=logits.sigmoid())).sum(), logits)[0]
    assert gradient.min().item() > 0.02  # 1/4 of 0.1; the area's own is below 1e-6


@pytest.fixture(scope="module")
def learned():
    """A classifier that knows its bars."""
    classifier = bends(width=16, dropout=0.0)
    data = loader(240, batch_size=24)
    AlignTrainer(classifier, recipe="erm", learning_rate=1e-2, schedule="cosine").fit(data, epochs=12)
    return weights(classifier)


def run(learned, on_collapse, *, sparsity, start, epochs=5):
    classifier = bends(width=16, dropout=0.0)
    classifier.load_state_dict(learned)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        masker = Masker(1, width=8, depth=1, start=start, stride=1)
    made = AlignTrainer(
        classifier,
        masker,
        recipe=recipe("align", sparsity=sparsity, smoothness=0.0, mixup=0.0),
        on_collapse=on_collapse,
        masker_only_epochs=99,
        masker_learning_rate=1e-2,
    )
    return made.fit(loader(192, batch_size=8), epochs=epochs)


@pytest.mark.filterwarnings("ignore::xai_align.align.ShortcutWarning")
@pytest.mark.parametrize(("on_collapse", "epochs"), [("area", 5), ("sparsity", 8)])
def test_a_full_mask_is_led_out_of_it(learned, on_collapse, epochs):
    """Without sparsity a mask of ones is nearly perfect."""
    with pytest.warns(CollapseWarning, match="nearly everything is kept") as told:
        done = run(learned, on_collapse, sparsity=0.0, start=0.9999, epochs=epochs)
    means = [row["mask_mean"] for row in done.history]
    assert means[0] > 0.999
    assert means[-1] < 0.6
    assert done.history[-1]["mask_std"] > 0.2
    assert 1 <= len([one for one in told if one.category is CollapseWarning]) < epochs  # once an epoch, while it lasts
    assert any("nearly everything is kept" in note for note in done.notes)


def test_without_an_answer_it_stays_full(learned):
    with pytest.warns(CollapseWarning, match="Nothing is changed") as told:
        done = run(learned, "warn", sparsity=0.0, start=0.9999, epochs=3)
    assert len([one for one in told if one.category is CollapseWarning]) == 3
    assert done.history[-1]["mask_mean"] > 0.99


def test_an_empty_mask_is_led_out_of_it(learned):
    with pytest.warns(CollapseWarning, match="nearly nothing is kept"):
        done = run(learned, "area", sparsity=8.0, start=0.001)
    assert done.history[0]["mask_mean"] < 0.01
    assert 0.05 < done.history[-1]["mask_mean"] < 0.3


def test_a_mask_that_begins_to_learn_is_not_called_flat():
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        warnings.simplefilter("ignore", ShortcutWarning)
        warnings.filterwarnings("ignore", "the kept part predicts the label barely better")  # they have only begun
        done = trainer(masker_learning_rate=1e-2, schedule="none").fit(loader(48), epochs=3)
    spreads = [row["mask_std"] for row in done.history]
    assert spreads[0] < 0.02  # flat by its number, as an untrained mask is
    assert spreads == sorted(spreads)
