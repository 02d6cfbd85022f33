"""Warnings name the line that called the library, however many of its functions stand between."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.networks import conv_net
from xai_align._tools.callers_level import callers_level
from xai_align.evaluation import deletion
from xai_align.evaluation.rfxg import ExhaustiveGroupsWarning, cgc
from xai_align.fei.curve import curve_masks
from xai_align.fei.optimised import AreaMissed, UnchangedAnswer
from xai_align.fei.published.clipped_gradient import clipped_gradient
from xai_align.fei.published.gradient_clipping import NothingClipped, clip_gradients
from xai_align.fei.published.nested import nested_masks
from xai_align.perturbation import perturbation_curve
from xai_align.perturbation.curve import Curve
from xai_align.perturbation.ranking import TieWarning
from xai_align.question import Question

#: One colour, so that nothing can be ranked.
GREY = torch.full((1, 3, 8, 8), 0.5)
ASKED = [Question.why(1)]


def clip_in_vain():
    with clip_gradients(conv_net(), GREY):
        pass


def all_classes():
    p = torch.tensor([[0.25, 0.75]])
    cgc(Curve(torch.tensor([0.0, 1.0]), p, p[:, None].expand(1, 2, 2)), 0, [0, 1])


@pytest.mark.parametrize(
    ("call", "categories"),
    [
        (lambda: perturbation_curve(conv_net(), GREY, GREY), {TieWarning}),
        (lambda: deletion(conv_net(), GREY, GREY), {TieWarning}),
        (lambda: clipped_gradient(conv_net(), GREY, ASKED), {TieWarning}),
        (lambda: nested_masks(conv_net(), GREY, ASKED, n_iter=1), {TieWarning, AreaMissed, UnchangedAnswer}),
        (
            lambda: curve_masks(conv_net(), GREY, ASKED, n_iter=1, baselines=0.5, start="flat"),
            {TieWarning, AreaMissed, UnchangedAnswer},
        ),
        (clip_in_vain, {NothingClipped}),
        (all_classes, {ExhaustiveGroupsWarning}),
    ],
)
def test_a_warning_names_the_callers_line(call, categories):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        call()
    found = {one.category: one.filename for one in told}
    assert found == dict.fromkeys(categories, __file__)


def test_a_caller_outside_is_the_first():
    assert callers_level() == 1
