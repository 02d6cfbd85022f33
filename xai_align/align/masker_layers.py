"""Layers that the maskers share."""

from __future__ import annotations

from math import gcd, log

from torch import Tensor, nn
from torch.nn import functional as F

#: Maximum number of groups in group normalisation.
GROUPS = 4
#: Standard deviation of the last layer's initial weights: masks start close to ``start``, and gradients still flow.
LAST_SPREAD = 0.02


def convolution(channels: int, to: int, *, size: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a convolution with group normalisation and ReLU, which keeps rows and columns but for the stride."""
    padding = dilation * (size // 2)
    return nn.Sequential(
        nn.Conv2d(channels, to, size, stride=stride, padding=padding, dilation=dilation, bias=False),
        nn.GroupNorm(gcd(GROUPS, to), to),
        nn.ReLU(inplace=True),
    )


def last_layer(channels: int, start: float) -> nn.Conv2d:
    """Return the layer that gives the masks before the sigmoid, at first close to those of masks of ``start``."""
    last = nn.Conv2d(channels, 1, 1)
    nn.init.normal_(last.weight, std=LAST_SPREAD)
    nn.init.constant_(last.bias, log(start / (1 - start)))  # type: ignore[arg-type]
    return last


def enlarged(maps: Tensor, like: Tensor) -> Tensor:
    """Return maps with the rows and columns of ``like``."""
    return F.interpolate(maps, like.shape[-2:], mode="bilinear", align_corners=False)
