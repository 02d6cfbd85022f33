"""Score network: a feature pyramid over the explained network's own layers that gives the map of a question.

    r = readout's map of the question          a_l = layer l of the explained network, normalised
    p_l = sum_i max(r_i, 0) a_l,i / sum_i max(r_i, 0)               mean features of layer l where r is positive
    u_l = W_l [a_l ; a_l * p_l] , cos(a_l, p_l) , r                 one level of the pyramid
    s   = r + top-down pyramid(u_1 ... u_L, colours)

The explained network is frozen, and only this network is trained: the layers of the explained network already encode
outlines, and a few thousand photographs are enough to learn which of them matter. The question enters through the
readout's map alone, in three ways: as a channel, by the mean features ``p_l`` where the map is positive, and by the
similarity of every position to them. So the network works for any class or question, also one that did not occur in
training.

The last layer starts at zero: an untrained network gives the readout's map, from which ``fei`` starts its search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xai_align._tools.checks import check_integer
from xai_align._tools.counted import counted

#: Groups of the group normalisation.
GROUPS = 4


class ScoreNetwork(nn.Module):
    """Network from images, an explained network's layers and a readout's map to scores, whose ranking is the map.

    Normalisation is within an image, so that a map does not depend on the rest of the batch. With the defaults, on
    EfficientNet-Lite0, it has about 200,000 parameters.

    Args:
        channels: of the explained network's layers, the finest first.
        in_channels: of the images.
        width: channels of the pyramid, a multiple of four.
        depth: convolutions at the coarsest level.

    Attributes:
        options: the constructor's arguments; ``ScoreNetwork(**options)`` builds the same architecture.

    Raises:
        ValueError: an option is out of range.

    Example::

        network = ScoreNetwork([8, 16])
        layers = [torch.randn(2, 8, 16, 16), torch.randn(2, 16, 8, 8)]
        network(images, layers, torch.randn(2, 16, 16))  # scores [2, 16, 16]
    """

    def __init__(self, channels: Sequence[int], in_channels: int = 3, *, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        for name, value in {"in_channels": in_channels, "width": width, "depth": depth}.items():
            check_integer(name, value)
        if not channels or width % GROUPS:
            raise ValueError(
                f"a score network needs one layer or more and a width that is a multiple of {GROUPS}, "
                f"got channels {list(channels)} and width {width}"
            )
        self.options: dict[str, Any] = {
            "channels": [check_integer("channels", one) for one in channels],
            "in_channels": in_channels,
            "width": width,
            "depth": depth,
        }
        self.laterals = nn.ModuleList(nn.Conv2d(2 * one, width, 1) for one in channels)
        self.mixed = nn.ModuleList(_convolution(width + 2, width) for _ in channels)
        self.context = nn.ModuleList(_convolution(width, width) for _ in range(depth))
        self.last_but_one = _convolution(width + 2 * in_channels + 1, width)
        self.last = nn.Conv2d(width, 1, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor, layers: Sequence[Tensor], start: Tensor) -> Tensor:
        """Return scores ``[N, h, w]``.

        Args:
            images: ``[N, C, H, W]``.
            layers: the explained network's layers for the images, ``[N, C_l, h_l, w_l]`` each, the finest first.
            start: the readout's map, ``[N, h, w]``, with mean 0 and standard deviation 1.

        Raises:
            ValueError: there are other layers than the network was made for.
        """
        found = [layer.shape[1] for layer in layers]
        if found != self.options["channels"] or images.shape[1] != self.options["in_channels"]:
            raise ValueError(
                f"the score network was made for images of {counted(self.options['in_channels'], 'channel')} and "
                f"layers of {self.options['channels']}, and got {images.shape[1]} and {found}"
            )
        r = start[:, None]
        top: Tensor | None = None
        for layer, lateral, mix in reversed(list(zip(layers, self.laterals, self.mixed, strict=True))):
            a = F.group_norm(at_most(layer, start.shape[1:]), 1)
            here = F.interpolate(r, a.shape[2:], mode="bilinear", antialias=True)
            p, similarity = resting_on(a, here)
            u = lateral(torch.cat([a, a * p], 1))
            if top is not None:
                u = u + F.interpolate(top, u.shape[2:], mode="bilinear")
            top = mix(torch.cat([u, similarity, here], 1))
            if layer is layers[-1]:
                for block in self.context:
                    top = top + block(top)
        assert top is not None
        top = F.interpolate(top, r.shape[2:], mode="bilinear")
        top = self.last_but_one(torch.cat([top, *colours(images, r.shape[2:]), r], 1))
        return start + self.last(top)[:, 0]


def resting_on(a: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean features where a map is positive, and every place's similarity to them.

    Args:
        a: features ``[N, C, h, w]``.
        r: the map ``[N, 1, h, w]``.

    Returns:
        ``p`` of shape ``[N, C, 1, 1]`` and ``cos(a, p)``, ``[N, 1, h, w]``.
    """
    positive = r.clamp(min=0)
    total = positive.sum((2, 3), keepdim=True)
    share = torch.where(total > 0, positive / total.clamp(min=1e-12), 1 / r[0, 0].numel())
    p = (a * share).sum((2, 3), keepdim=True)
    return p, F.cosine_similarity(a, p, dim=1, eps=1e-6)[:, None]


def at_most(layer: Tensor, cells: Sequence[int]) -> Tensor:
    """Return a layer averaged to at most so many rows and columns."""
    size = (min(layer.shape[2], cells[0]), min(layer.shape[3], cells[1]))
    return layer if size == tuple(layer.shape[2:]) else F.adaptive_avg_pool2d(layer, size)


def colours(images: Tensor, cells: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of the pixels in each cell, ``[N, C, h, w]`` each."""
    size = (cells[0], cells[1])
    mean = F.adaptive_avg_pool2d(images, size)
    variance = F.adaptive_avg_pool2d(images.square(), size) - mean.square()
    return mean, variance.clamp(min=1e-8).sqrt()


def _convolution(channels: int, to: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, to, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, to), nn.ReLU(inplace=True)
    )
