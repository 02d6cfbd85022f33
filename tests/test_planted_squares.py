"""Pictures with a planted square, their scores, and the rewritings that the benchmark of planted evidence compares."""

from __future__ import annotations

import pytest
import torch

from benchmarks.readout.planted import scores, top_inside
from benchmarks.readout.rewritings import REWRITINGS
from benchmarks.shared.planted_squares import COLOURS, FINE, MEAN, STD, pictures
from benchmarks.shared.small_networks import VisionTransformer, plain, residual


def test_the_class_is_the_colour_inside_the_mask_and_nothing_else():
    drawn = pictures(512, 3)
    assert drawn.masks.flatten(1).sum(1).unique().tolist() == [64]
    inside = (drawn.images * drawn.masks[:, None]).sum((2, 3)) / 64 * STD + MEAN
    colours = torch.tensor(list(COLOURS.values()))
    # the mean of 64 pixels with noise that is cut off at 0 and 1
    torch.testing.assert_close(inside, colours[drawn.labels], atol=FINE, rtol=0)
    outside = ~drawn.masks[:, None].expand_as(drawn.images)
    assert torch.equal(drawn.images[outside], drawn.covered[outside])
    means = torch.stack([drawn.covered[drawn.labels == label].mean((0, 2, 3)) for label in range(6)])
    assert float((means - drawn.covered.mean((0, 2, 3))).abs().max()) < 0.1


def test_pictures_are_those_of_their_seed():
    assert torch.equal(pictures(4, 1).images, pictures(4, 1).images)
    assert not torch.equal(pictures(4, 1).images, pictures(4, 2).images)


def test_top_inside_by_hand():
    masks = pictures(3, 0).masks
    half = masks.double()
    half[:, :, ::2] *= 0.5  # of the square, so that outside can be between
    half[~masks] = 0.75
    # 32 pixels of the square score 1, the other 32 of the top are outside
    assert top_inside(half, masks).tolist() == [0.5] * 3
    assert scores(masks.double(), masks) == ["1.000 ± –"] * 2  # equal values have no interval
    assert scores(-masks.double(), masks) == ["0.000 ± –"] * 2


@pytest.mark.parametrize("name", REWRITINGS)
def test_a_rewriting_is_the_same_function(name):
    torch.manual_seed(0)
    activations = (torch.nn.ReLU6, torch.nn.SiLU)
    networks = [plain(6), VisionTransformer(6, True), *(residual(6, activation) for activation in activations)]
    x = pictures(2, 0).images.double()
    found = []
    for network in networks:
        model = network.double().train()
        model(3 * x)  # batch norms get statistics
        model.eval()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        other = REWRITINGS[name](model)
        if other is not None:
            torch.testing.assert_close(other(3 * x), model(3 * x), rtol=1e-9, atol=1e-9)
            assert [*other.named_modules()] != [*model.named_modules()]
            found.append(other)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert found
