"""Targets, further arguments, fills and maps for another number of examples are refused, also in several batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from captum_align import EPICAttribution, FEIAttribution, PiNetAttribution
from tests.networks import conv_net, images
from xai_align import Question
from xai_align.evaluation import deletion
from xai_align.evaluation.agreement import Scored, agreement_with_scores
from xai_align.evaluation.grid_pointing_game import PictureGrids, grid_pointing_game
from xai_align.perturbation import perturbation_curve, tie_rate
from xai_align.prototypes import fit_prototypes
from xai_align.question import TargetError

#: More, so that metrics take them in several parts.
MANY = 20


class Scaled(nn.Module):
    """The network, times a number for each image."""

    def __init__(self):
        super().__init__()
        self.inner = conv_net()

    def forward(self, x, scale=None):
        return self.inner(x) if scale is None else self.inner(x) * scale[:, None]


@pytest.fixture(scope="module")
def net():
    return Scaled().eval()


@pytest.fixture(scope="module")
def epic():
    inner = conv_net()
    return EPICAttribution(inner, fit_prototypes(inner, list(images(6)), prototypes=2, rounds=1), internal_batch_size=2)


TARGETS = {
    "list": [1, 2],
    "tensor": torch.tensor([1, 2]),
    "array": np.array([1, 2]),
    "questions": [Question.why(1), Question.why_not(1, 2)],
    "too many": [0, 1, 2, 0, 1],
}


@pytest.mark.parametrize("form", TARGETS)
def test_targets_for_another_number_of_images(net, epic, form):
    for method in (PiNetAttribution(net), epic, FEIAttribution(net, n_iter=1)):
        given = {} if method is epic else {"internal_batch_size": 2}
        with pytest.raises(TargetError, match="targets for 4 examples"):
            method.attribute(images(4), target=TARGETS[form], **given)


@pytest.mark.parametrize("target", [[1, 2, 0, 1], np.array([1, 2, 0, 1]), torch.tensor([1, 2, 0, 1]), 1, None])
def test_targets_for_each_image_are_those_of_one_batch(net, epic, target):
    if target is not None:
        whole, parts = (
            PiNetAttribution(net).attribute(images(4), target=target, internal_batch_size=n) for n in (4, 3)
        )
        torch.testing.assert_close(whole, parts)
        wide = EPICAttribution(epic.forward_func, epic.prototypes)
        torch.testing.assert_close(epic.attribute(images(4), target=target), wide.attribute(images(4), target=target))


@pytest.mark.parametrize("count", [2, 8])
def test_further_arguments_for_a_batch_and_not_for_all(net, count):
    x, scale = images(2 * count), torch.ones(count)
    calls = {
        "readout": lambda: PiNetAttribution(net).attribute(
            x, target=1, additional_forward_args=scale, internal_batch_size=count
        ),
        "fei": lambda: FEIAttribution(net, n_iter=1).attribute(
            x, target=1, additional_forward_args=scale, internal_batch_size=count
        ),
        "deletion": lambda: deletion(
            net, x, x, target=1, additional_forward_args=scale, internal_batch_size=count, num_steps=4
        ),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=rf"a tensor of shape \[{count}\] was given with {2 * count} examples"):
            call()


@pytest.mark.parametrize("options", [{"baselines": images(2)}, {"start": torch.rand(2, 8, 8)}])
def test_baselines_and_starts_of_a_batch_and_not_of_all(net, options):
    with pytest.raises(ValueError, match="was given with 4 examples"):
        FEIAttribution(net).attribute(images(4), target=1, n_iter=1, internal_batch_size=2, **options)


@pytest.mark.parametrize("count", [3, 16, 30])
def test_fills_and_feature_masks_of_another_number(count):
    x = images(MANY)
    with pytest.raises(ValueError, match=rf"the fill has shape \[{count}, 3, 8, 8\]; give the inputs' shape \[{MANY}"):
        perturbation_curve(conv_net(), x, x, baselines=images(count))
    with pytest.raises(ValueError, match=rf"feature mask has shape \[{count}, 8, 8\]; give .* or \[{MANY}, 8, 8\]"):
        perturbation_curve(conv_net(), x, x, feature_mask=torch.zeros(count, 8, 8, dtype=torch.long))


def test_a_fill_of_one_number_is_a_fill():
    x = images(2)
    found = perturbation_curve(conv_net(), x, x, baselines=torch.tensor(0.5))
    torch.testing.assert_close(found.masked, perturbation_curve(conv_net(), x, x, baselines=0.5).masked)


@pytest.mark.parametrize("count", [1, 3])
def test_scores_from_outside_of_another_number(count):
    scored = Scored(values=torch.tensor([1.0, 0.0]), labels=torch.arange(8).expand(8, 8) // 4)
    with pytest.raises(ValueError, match=f"2 maps and scores of {count} image"):
        agreement_with_scores(images(2), [scored] * count, measure="fa", share=0.5)


def test_grids_whose_labels_are_not_their_pictures():
    grids = PictureGrids(members=torch.tensor([[0, 1, 2, 3]]), labels=torch.tensor([[3, 2, 1, 0]]))
    net = conv_net(classes=4)
    with pytest.raises(ValueError, match="labels are not those of their members"):
        grid_pointing_game(net, images(4), torch.arange(4), lambda model, x, target: x, grids=grids)


def test_ties_of_maps_that_are_not_finite():
    with pytest.raises(ValueError, match="NaN"):
        tie_rate(torch.full((2, 8, 8), torch.nan))
