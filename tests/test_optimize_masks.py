"""Masks for any number of images and any question: pieces of the batch, what is said of them, and no question."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from captum_align import FEIAttribution
from tests.networks import conv_net, images
from xai_align.fei import AreaMissed, optimize_masks
from xai_align.question import ask

FEW = {"quantiles": (0.3, 0.7), "n_iter": 4}
#: From a mask of nothing, four steps say more with a light area term.
SOLVERS = {
    "curve": FEW,
    "nested": FEW | {"area_weight": 0.01, "solver": "nested"},
    "both": FEW | {"nested_iter": 2, "solver": "both"},
}
NESTED = SOLVERS["nested"]
# so few steps reach no area, and tie
pytestmark = pytest.mark.filterwarnings(
    "ignore::xai_align.fei.AreaMissed", "ignore::xai_align.perturbation.ranking.TieWarning"
)


def net(classes=5):
    """In float64, where rounding does not reach what is compared."""
    return conv_net(classes=classes).double()


def pictures(count):
    return images(count, dtype=torch.float64)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_no_question_is_the_predicted_class_or_the_only_entry():
    model, x = net(), pictures(3)
    predicted = model(x).argmax(1)
    found = optimize_masks(model, x, internal_batch_size=2, **NESTED)
    same(found.attribution, optimize_masks(model, x, predicted, **NESTED).attribution)
    one_logit, flat = net(1), nn.Sequential(net(1), nn.Flatten(0)).eval()
    expected = optimize_masks(one_logit, x, 0, **NESTED).attribution
    for one in (one_logit, flat, ask(one_logit, 0, 3)[0]):
        same(FEIAttribution(one, **NESTED).attribute(x).sum(1), expected)
        same(optimize_masks(one, x, **NESTED).attribution, expected)
    dense = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).double().eval()
    with pytest.raises(ValueError, match=r"\[3, 4, 8, 8\], where no class is the predicted one"):
        optimize_masks(dense, x, **NESTED)
    assert optimize_masks(dense, x, (1, 2, 3), **NESTED).attribution.shape == (3, 8, 8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_pieces_make_one_record(solver):
    model, x = net(), pictures(3)
    start = {"start": images(3, seed=4, dtype=torch.float64)[:, 0]} if solver != "nested" else {}
    whole, pieces = (
        optimize_masks(model, x, 1, internal_batch_size=size, **SOLVERS[solver], **start) for size in (None, 1)
    )
    for name in ("attribution", "masks", "areas", "losses", "tie_fraction"):
        same(getattr(pieces, name), getattr(whole, name))
    for name in ("quantiles", "clipped", "passes", "notes"):
        assert getattr(pieces, name) == getattr(whole, name)


def test_losses_of_pieces_that_were_done_early_end_in_nan():
    found = optimize_masks(
        net(),
        pictures(4),
        1,
        internal_batch_size=1,
        n_iter=12,
        stable_at=0.95,
        lr=0.05,
        fills=("zero", "noise"),
        deviation_weight=0.0,
    )
    taken = found.losses.isfinite().sum(1)
    assert found.losses.shape == (4, taken.max())
    assert taken.min() < taken.max()
    assert found.passes == 2 * taken.max()


def test_warnings_count_the_callers_examples_and_are_said_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimize_masks(net(), pictures(3), 1, internal_batch_size=1, **NESTED)
    (said,) = (str(one.message) for one in caught if one.category is AreaMissed)
    assert "example 0" in said
    assert "(5 more" in said


class Spoilt(nn.Module):
    """NaN where a corner between 5 and 9 shows that a part of the image is hidden."""

    def forward(self, x):
        corner = x[:, :1, 0, 0]
        return torch.where((corner > 5) & (corner < 9), torch.nan, x.mean((2, 3)))


def test_an_error_in_a_later_piece_says_where_its_numbers_start():
    x = pictures(3)
    x[2, :, 0, 0] = 10
    with pytest.raises(ValueError, match=r"example\(s\) \[0\]") as caught:
        optimize_masks(Spoilt(), x, 0, internal_batch_size=1, clip="none", baselines=0.0, lr=0.6, **NESTED)
    assert "example 0 of this message is image 2 of the batch" in caught.value.__notes__[0]
