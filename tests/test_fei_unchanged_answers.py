"""Answers that no composite changes: both solvers tell which images' maps say nothing, and only those."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from tests.networks import conv_net, images
from xai_align.fei import UnchangedAnswer, fit_fei, optimize_masks

#: Few steps, whose areas and ties are not the point.
QUICK = {
    "curve": {"n_iter": 3, "start": "flat"},
    "nested": {"n_iter": 2, "clip": "none"},
    "both": {"n_iter": 2, "nested_iter": 1, "start": "flat"},
}
pytestmark = pytest.mark.filterwarnings("ignore::xai_align.fei.AreaMissed", "ignore::xai_align.perturbation.TieWarning")


class Constant(nn.Module):
    """The same logits for every image, after a convolution that is run in vain."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        return torch.tensor([[1.0, 2.0]], dtype=x.dtype) + 0 * self.conv(x).mean((2, 3))


class OfTheBright(nn.Module):
    """The mean of images that hold a pixel above 50, and nothing of others."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        bright = (x.amax((1, 2, 3)) > 50).to(x)[:, None]
        return bright * self.conv(x).mean((2, 3))


@pytest.mark.parametrize("solver", QUICK)
def test_a_constant_answer_is_told(solver):
    with pytest.warns(
        UnchangedAnswer, match=r"the answer about example\(s\) \[0, 1\] was the same for every composite"
    ):
        found = optimize_masks(Constant().eval(), images(2), [0, 1], solver=solver, **QUICK[solver])
    assert found.answer_ranges.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("solver", QUICK)
@pytest.mark.parametrize("at_once", [1, 3])
def test_only_the_images_that_it_concerns_are_named(solver, at_once):
    x = images(3)
    x[1, 0, ::2, ::2] = 1000.0  # every composite keeps a part of the image
    options = QUICK[solver] | {"internal_batch_size": at_once}
    with pytest.warns(UnchangedAnswer, match=r"example\(s\) \[0, 2\]"):
        found = optimize_masks(OfTheBright().eval(), x, [0, 0, 0], solver=solver, **options)
    assert (found.answer_ranges > 0).tolist() == [False, True, False]


@pytest.mark.parametrize("solver", QUICK)
def test_an_answer_of_the_image_is_no_reason_to_warn(solver):
    model, x = conv_net(), images(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnchangedAnswer)
        found = optimize_masks(model, x, [1, 3], solver=solver, **QUICK[solver])
    assert (found.answer_ranges > 0).all()


def test_a_fit_to_a_constant_answer_is_noted():
    told = "gives the same logits for all images"
    short = {"epochs": 1, "batch_size": 2, "width": 4, "depth": 1}
    for model, noted in ((Constant(), True), (conv_net(), False)):
        fit = fit_fei(model.eval(), images(3), **short)
        assert any(told in note for note in fit.notes) == noted
    one = fit_fei(conv_net(), images(1), **short)  # nothing to compare it with
    assert not any(told in note for note in one.notes)
