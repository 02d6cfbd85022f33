"""Decoders from feature maps at several depths to coefficient maps at one resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F


class Decoder(Protocol):
    """Interface of a decoder for raw coefficient maps: any module with this signature.

    If it has an attribute ``last``, the layer that outputs the maps, the head
    initialises that layer.
    """

    def __call__(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return raw maps ``[N, maps, h, w]``, preferably of ``size``, of maps ``[N, C_i, h_i, w_i]``, finest first."""
        ...


class FeaturePyramid(nn.Module):
    """Light decoder: projects maps of all depths to few channels, adds them from deepest to finest, and smooths.

    Args:
        channels: channels of the feature maps, finest first.
        maps: the number of coefficient maps.
        width: channels inside the decoder.

    Source: the top-down path of feature pyramid networks (arXiv 1612.03144).

    Example::

        encoder = ConvEncoder(3, width=8)
        decoder = FeaturePyramid(encoder.channels, maps=5)
        decoder(encoder(images), (32, 32))  # [2, 5, 32, 32]
    """

    def __init__(self, channels: Sequence[int], maps: int, width: int = 32) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(count, width, 1, bias=False), nn.BatchNorm2d(width)) for count in channels
        )
        self.smoothing = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.last = nn.Conv2d(width, maps, 1)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return raw maps ``[N, maps, *size]``."""
        laterals = [lateral(one) for lateral, one in zip(self.laterals, features, strict=True)]
        summed = laterals[-1]
        for finer in reversed(laterals[:-1]):
            summed = finer + resized(summed, finer.shape[-2:])
        return self.last(self.smoothing(F.relu(resized(summed, size))))


class PooledDecoder(nn.Module):
    """Decoder of all coefficients from the mean of the deepest map by one linear layer: the paper's "naive" control.

    It has no spatial information, so its maps cannot localise.

    Args:
        channels: channels of the feature maps, finest first; the last is used.
        maps: the number of coefficient maps.
        size: rows and columns of the maps, fixed.

    Example::

        encoder = ConvEncoder(3, width=8)
        decoder = PooledDecoder(encoder.channels, maps=5, size=(16, 16))
        decoder(encoder(images), (16, 16))  # [2, 5, 16, 16]
    """

    def __init__(self, channels: Sequence[int], maps: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.last = nn.Linear(channels[-1], maps * size[0] * size[1])

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return raw maps ``[N, maps, *self.size]``."""
        return self.last(features[-1].mean((2, 3))).unflatten(1, (-1, *self.size))


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps bilinearly if their size differs."""
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)
