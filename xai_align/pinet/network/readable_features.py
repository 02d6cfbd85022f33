"""Readable features ``z`` for the second look of a PiNet, one small module per choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align.pinet.network.second_look import EvidenceLook, SecondLook, spread_transposed

#: Choices of ``z``: see :func:`readable_features`.
ReadableKind = Literal["ones", "area", "pixels", "pixels_and_inverse", "patch_means", "features", "evidence"]


class Seen(Protocol):
    """Interface of readable features of a batch, to be weighted by coefficients."""

    def total(self, pi: Tensor) -> Tensor:
        """Return ``[N, K or 1]``, ``sum over c, h, w of pi * z``."""
        ...

    def look(self, *, logits: Tensor, coefficients: Tensor, scale: Tensor, bias: Tensor) -> SecondLook:
        """Return the complete second look."""
        ...


@dataclass(frozen=True)
class Values:
    """Readable features ``z``, stored as ``[N, 1, C, h, w]``."""

    z: Tensor

    def total(self, pi: Tensor) -> Tensor:
        """Return ``sum(pi * z)``."""
        return (pi * self.z).flatten(2).sum(2)

    def look(self, **parts: Tensor) -> SecondLook:
        """Return the second look with ``z``."""
        return SecondLook(z=self.z, **parts)


@dataclass(frozen=True)
class Evidence:
    """Class evidence ``[N, K, h', w']`` on a coarse grid, to be spread over the finer grid of the coefficients."""

    evidence: Tensor

    def total(self, pi: Tensor) -> Tensor:
        """Return ``sum(pi * z)``, summed over the coarse grid, so that the fine maps of all classes are not stored."""
        gathered = spread_transposed(pi[:, :, 0], self.evidence.shape[-2:])
        return (gathered * self.evidence).flatten(2).sum(2)

    def look(self, **parts: Tensor) -> SecondLook:
        """Return the second look, whose ``z`` is spread on access."""
        return EvidenceLook(evidence=self.evidence, **parts)


class Readable(nn.Module):
    """Base class of the choices of ``z``.

    Attributes:
        channels: ``C``.
        typical: the sum of the channels of ``z`` at a typical position, for initial logits of order one.
    """

    channels: int = 1
    typical: float = 1.0

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Return ``z`` for images ``[N, C, H, W]`` and feature maps (finest first) on a grid of this size."""
        raise NotImplementedError


class Ones(Readable):
    """Constant ``z = 1``, the features of a soft second look."""

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Return ones, ``[N, 1, 1, h, w]``."""
        return Values(images.new_ones(()).expand(images.shape[0], 1, 1, *size))


class Area(Readable):
    """Area of a cell in pixels of the image, so that ``sum(pi * z)`` is an area."""

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Return areas, ``[N, 1, 1, h, w]``."""
        pixels = images.shape[-2] * images.shape[-1] / (size[0] * size[1])
        return Values(images.new_full((), pixels).expand(images.shape[0], 1, 1, *size))


class Pixels(Readable):
    """Un-normalised pixels, ``z = x``.

    With pixels in [0, 1] and non-negative coefficients, contributions are
    non-negative too. A black pixel contributes nothing, whatever its
    coefficient; :class:`PixelsAndInverse` avoids this. Values outside
    [0, 1], as augmentation may give, are not clamped.

    Args:
        channels: channels of the images.
        mean: the mean of the normalisation, one number or one per channel.
        std: the standard deviation of the normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        if {len(mean), len(std)} - {1, channels} or min(std) <= 0:
            raise ValueError(
                f"mean {tuple(mean)} and std {tuple(std)} undo the normalisation of images with "
                f"{counted(channels, 'channel')}: "
                "give one number or one for each channel, with std > 0"
            )
        self.channels = channels
        self.typical = 0.5 * channels
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Return pixels, ``[N, 1, C, h, w]``.

        Raises:
            ValueError: the grid is not the image's.
        """
        if images.shape[-2:] != size:
            raise ValueError(
                f"the images are {images.shape[-2]} x {images.shape[-1]} and the maps {size[0]} x {size[1]}; pixels as "
                'z need a map of the same size: leave size out, or use z="patch_means"'
            )
        return Values(self.pixels(images).unsqueeze(1))

    def pixels(self, images: Tensor) -> Tensor:
        """Return un-normalised images ``[N, C, H, W]``."""
        return images * self.std.to(images) + self.mean.to(images)


class PatchMeans(Pixels):
    """Mean of the un-normalised pixels of each cell."""

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Return means, ``[N, 1, C, h, w]``."""
        return Values(nn.functional.adaptive_avg_pool2d(self.pixels(images), size).unsqueeze(1))


class PixelsAndInverse(Pixels):
    """Pixels and their inverse, ``z = [x, 1 - x]``: dark pixels count too (as in B-cos networks, arXiv 2205.10268)."""

    def __init__(self, channels: int, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)) -> None:
        super().__init__(channels, mean, std)
        self.channels = 2 * channels
        self.typical = 1.0 * channels

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Return pixels and one minus pixels, ``[N, 1, 2 C, h, w]``, or their means on a coarser grid."""
        x = nn.functional.adaptive_avg_pool2d(self.pixels(images), size)
        return Values(torch.cat([x, 1 - x], dim=1).unsqueeze(1))


class LearnedFeatures(Readable):
    """Learned non-negative features, made from the deepest feature map by a 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.typical = 0.4 * channels  # the mean of relu of a standard normal
        self.projection = nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.GroupNorm(1, channels), nn.ReLU())

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Return features, ``[N, 1, C, h, w]``."""
        projected = self.projection(features[-1].to(images.dtype))
        return Values(nn.functional.interpolate(projected, size, mode="bilinear").unsqueeze(1))


class ClassEvidence(Readable):
    """Class evidence ``z_kp = W_k . F_p`` of a linear classifier on the deepest feature map, for class ``k`` at ``p``.

    Args:
        in_channels: channels of the deepest feature map.
        classifier: gives the initial ``W``; None: zeros.
        num_classes: ``K``.
    """

    def __init__(self, in_channels: int, num_classes: int, classifier: nn.Linear | None = None) -> None:
        super().__init__()
        start = torch.zeros(num_classes, in_channels) if classifier is None else classifier.weight.detach().clone()
        if start.shape != (num_classes, in_channels):
            raise ValueError(
                f"the classifier has weights {list(start.shape)}; {counted(num_classes, 'class')} on a feature map of "
                f"{counted(in_channels, 'channel')} need [{num_classes}, {in_channels}]"
            )
        self.weight = nn.Parameter(start)

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Return evidence, ``[N, K, 1, h, w]``, computed on access."""
        deepest, weight = features[-1].to(images.dtype), self.weight.to(images.dtype)
        return Evidence(torch.einsum("kc,nchw->nkhw", weight, deepest))


def readable_features(
    kind: ReadableKind,
    *,
    image_channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    in_channels: int,
    z_channels: int,
    num_classes: int,
    classifier: nn.Linear | None,
) -> Readable:
    """Return the module for a choice of ``z``."""
    of_pixels = {"pixels": Pixels, "pixels_and_inverse": PixelsAndInverse, "patch_means": PatchMeans}
    if kind in of_pixels:
        return of_pixels[kind](image_channels, mean, std)
    if kind == "features":
        return LearnedFeatures(in_channels, z_channels)
    if kind == "evidence":
        return ClassEvidence(in_channels, num_classes, classifier)
    return Area() if kind == "area" else Ones()
