"""Gaussian blur of an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad


def blurred(x: Tensor, sigma: float, radius: int) -> Tensor:
    """Blur images ``[N, C, H, W]`` by a Gaussian of this sigma, cut off at this radius (both in pixels)."""
    if sigma == 0:
        return x
    radius = min(radius, min(x.shape[-2:]) - 1)  # the edges are mirrored
    u = torch.arange(-radius, radius + 1, dtype=x.dtype)
    g = torch.exp(-u.square() / (2 * sigma**2))
    g = g / g.sum()
    channels = x.shape[1]
    x = pad(x, (radius,) * 4, mode="reflect")
    x = conv2d(x, g.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return conv2d(x, g.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
