"""The default account of a convolutional network, computed a second time with dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.networks import images
from xai_align import FeatureSpace, Split, plugins, read_out
from xai_align.pinet import sharp_layers

SIZE, CHANNELS, LABEL = 5, 3, 1


class Chain(nn.Module):
    """Three stages of equal size, each a convolution with a bias and a ReLU, and a linear head of mean features."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU()) for _ in range(3)
        )
        self.head = nn.Linear(CHANNELS, 2)

    def features(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def known(monkeypatch, model: Chain) -> None:
    """Let the plugins know the chain's stages and the input of its head."""
    head = FeatureSpace(layer="head input", split=Split(model.features, lambda z: model.head(z.mean((2, 3)))))
    monkeypatch.setattr(plugins, "stages", lambda asked: ("stages.0", "stages.1", "stages.2"))
    monkeypatch.setattr(plugins, "feature_space", lambda asked, layer=None: head if layer is None else None)


def dense(conv: nn.Conv2d) -> Tensor:
    """The convolution as a matrix, without its bias, one basis vector at a time."""
    basis = torch.eye(CHANNELS * SIZE * SIZE, dtype=torch.float64).view(-1, CHANNELS, SIZE, SIZE)
    return nn.functional.conv2d(basis, conv.weight, None, padding=1).flatten(1).T


def favoured(weight: Tensor, x: Tensor) -> Tensor:
    """Coefficients ``[out, in]``: terms that agree with their unit count 5/4, and all so much that the sum stays."""
    terms = weight * x
    total = terms.sum(1, keepdim=True)
    counted = torch.where(terms * total > 0, 1.25 * weight, weight)
    return counted * (total / (counted * x).sum(1, keepdim=True)).nan_to_num(0.0)


def by_hand(model: Chain, x: Tensor) -> Tensor:
    """Half the third stage from the end by gamma = 1/4 with its biases in place, half the head's input."""
    places = SIZE * SIZE
    with torch.no_grad():
        z = [model.stages[0](x).flatten()]
        for stage in model.stages[1:]:
            z.append(stage(z[-1].view(1, CHANNELS, SIZE, SIZE)).flatten())
        mean = z[2].view(CHANNELS, places).mean(1)
        coarse = z[2] * (model.head.weight[LABEL] / places).repeat_interleave(places)
        beta = (favoured(model.head.weight[LABEL][None], mean)[0] / places).repeat_interleave(places)
        fine = torch.zeros(CHANNELS * places, dtype=torch.float64)
        for stage, before, after in reversed(list(zip(model.stages[1:], z[:-1], z[1:], strict=True))):
            beta = beta * (after > 0)
            fine += beta * stage[0].bias.repeat_interleave(places)
            beta = beta @ favoured(dense(stage[0]), before)
        fine += beta * z[0]
    return (0.5 * fine + 0.5 * coarse).view(CHANNELS, SIZE, SIZE).sum(0)


@pytest.mark.parametrize("seed", range(3))
def test_the_default_is_half_fine_and_half_coarse(monkeypatch, seed):
    torch.manual_seed(seed)
    model, x = Chain().double().eval(), images(1, SIZE, seed=seed, dtype=torch.float64)
    known(monkeypatch, model)
    readout = read_out(model, x, LABEL, sharp_layers(model, x))
    assert torch.allclose(readout.map()[0], by_hand(model, x), rtol=1e-9, atol=1e-12)
    # all that is left is the head's own bias
    assert torch.allclose(readout.bias, model.head.bias[LABEL].expand(1), atol=1e-12)
