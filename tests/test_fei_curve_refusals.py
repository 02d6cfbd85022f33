"""The curve solver: options, models, images and questions that do not fit are refused in words that help."""

from __future__ import annotations

import math

import pytest
import torch

from tests.networks import conv_net, images, untouched
from xai_align.fei.optimize import find_solver
from xai_align.question import Question, TargetError

#: The curve solver, which may clip gradients.
curve_masks = find_solver("curve").run

FEW = {"n_iter": 6, "lr": 0.2, "temperatures": (0.5, 0.15)}


def pictures():
    return images(2, dtype=torch.float64)


def net():
    return conv_net().double()


def why(*classes):
    return [Question.why(target) for target in classes]


def found(model, x, asked, **options):
    return curve_masks(model, x, asked, **FEW | options)


@pytest.mark.parametrize("maps", [torch.ones(8, 8), torch.ones(3, 8, 8), torch.full((2, 8, 8), math.nan)])
def test_starts_that_do_not_fit_are_refused(maps):
    with pytest.raises(ValueError, match=r"the starting maps have shape .*give finite maps \[2, h, w\]"):
        found(net(), pictures(), why(1, 3), start=maps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_iter": 0}, "n_iter must be a positive integer, got 0"),
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"lr": math.nan}, "lr must be a positive number, got nan"),
        ({"temperatures": (0.5, 0.0)}, r"temperatures\[1\] must be a positive number, got 0.0"),
        ({"temperatures": (-1.0, 0.5)}, r"temperatures\[0\] must be a positive number, got -1.0"),
        ({"temperatures": (0.5,)}, r"temperatures must be two, of the first and of the last step, got \(0.5,\)"),
        ({"temperatures": (0.5, 0.3, 0.1)}, "must be two, of the first and of the last step"),
        ({"mask_size": 9}, "mask_size is 9, the images have 8 x 8 pixels; give 8 or less"),
        ({"shift": 8}, "shift is 8 pixels, and the images have 8 x 8; give 7 or less"),
        ({"mask_size": 1}, "mask_size must be an integer of at least 2, got 1"),
        ({"mask_size": 4.0}, "mask_size must be an integer of at least 2, got 4.0"),
        ({"shift": -1}, "shift must be a non-negative integer, got -1"),
        ({"mirror": "always"}, "mirror must be 'never' or 'random', got 'always'"),
        ({"start": "warm"}, "start must be 'readout', 'default readout', 'flat', or maps"),
        ({"start_layer": "conv9"}, "conv9"),
        ({"fills": ("grey",)}, "the fill must be .* got 'grey'"),
        ({"scales": ()}, "scales are"),
        ({"quantiles": (0.5, 0.5)}, "the quantiles are"),
        ({"stable_at": 1.5}, r"stable_at must be a number in \(0, 1\], got 1.5"),
        ({"stable_at": math.nan}, "stable_at must be .* got nan"),
        ({"clip": "most"}, "most"),
        ({"deviation_weight": -1.0}, "deviation_weight must be a non-negative number, got -1.0"),
        (
            {"deviation_weight": 1.0, "deviation_layers": ["conv3"]},
            "layer 'conv3' not found.*outermost layers are conv1",
        ),
        ({"deviation_weight": 1.0, "deviation_layers": ["act"]}, "layer 'act' runs more than once"),
        ({"deviation_weight": 1.0, "deviation_layers": ["unused"]}, "layer 'unused' did not run"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    model = net()
    with untouched(model), pytest.raises(ValueError, match=message):
        found(model, pictures(), why(1, 3), **options)


def test_models_images_and_questions_that_do_not_fit_are_refused():
    model, x = net(), pictures()
    with pytest.raises(ValueError, match="train mode"):
        found(net().train(), x, why(1, 3))
    with pytest.raises(TypeError, match="ndarray"):
        found(model, x.numpy(), why(1, 3))
    with pytest.raises(ValueError, match=r"must have the shape \[N, C, H, W\]"):
        found(model, x[0], why(1, 3))
    for asked in (why(9, 1), why(1), [Question.why_group(range(5))] * 2, [Question.why((0, 1))] * 2):
        for start in ("flat", "readout"):
            with untouched(model), pytest.raises(TargetError):
                found(model, x, asked, start=start)
