"""The features ``z`` that a PiNet looks at a second time, one small module for each choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from xai_align.pinet.network.second_look import EvidenceLook, SecondLook, spread_transposed

#: The choices of ``z``: see :func:`readable_features`.
ReadableKind = Literal["ones", "area", "pixels", "pixels_and_inverse", "patch_means", "features", "evidence"]


class Seen(Protocol):
    """What was seen at the second look, ready to be weighed by coefficients."""

    def total(self, pi: Tensor) -> Tensor:
        """``[N, K or 1]``: ``sum over c, h, w of pi * z``."""
        ...

    def look(self, *, logits: Tensor, coefficients: Tensor, scale: Tensor, bias: Tensor) -> SecondLook:
        """The whole account."""
        ...


@dataclass(frozen=True)
class Values:
    """``z`` as it is, ``[N, 1, C, h, w]``."""

    z: Tensor

    def total(self, pi: Tensor) -> Tensor:
        """``sum(pi * z)``."""
        return (pi * self.z).flatten(2).sum(2)

    def look(self, **parts: Tensor) -> SecondLook:
        """With ``z`` beside the coefficients."""
        return SecondLook(z=self.z, **parts)


@dataclass(frozen=True)
class Evidence:
    """``z``: evidence ``[N, K, h', w']`` of a coarse map, to be spread over the finer map of the coefficients."""

    evidence: Tensor

    def total(self, pi: Tensor) -> Tensor:
        """``sum(pi * z)``, summed cell by cell of the coarse map, so that the fine one of all classes isn't made."""
        gathered = spread_transposed(pi[:, :, 0], self.evidence.shape[-2:])
        return (gathered * self.evidence).flatten(2).sum(2)

    def look(self, **parts: Tensor) -> SecondLook:
        """With ``z`` spread when it is asked for."""
        return EvidenceLook(evidence=self.evidence, **parts)


class Readable(nn.Module):
    """A choice of ``z``.

    Attributes:
        channels: ``C``.
        typical: what the channels of ``z`` sum to at a usual position, for a start of order one.
    """

    channels: int = 1
    typical: float = 1.0

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """What is seen of images ``[N, C, H, W]`` and feature maps (finest first) on a grid of this size."""
        raise NotImplementedError


class Ones(Readable):
    """``z = 1``: every position has one vote. It is what a soft second look sees."""

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Ones, ``[N, 1, 1, h, w]``."""
        return Values(images.new_ones(()).expand(len(images), 1, 1, *size))


class Area(Readable):
    """``z`` is the area of a cell in pixels of the image, so that ``sum(pi * z)`` is an area."""

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Areas, ``[N, 1, 1, h, w]``."""
        pixels = images.shape[-2] * images.shape[-1] / (size[0] * size[1])
        return Values(images.new_full((), pixels).expand(len(images), 1, 1, *size))


class Pixels(Readable):
    """``z = x``: the pixels, before they were normalised.

    With pixels in [0, 1] and coefficients that are never negative, what a pixel
    adds is never negative either. A black pixel adds nothing, whatever its
    coefficient: :class:`PixelsAndInverse` has no such pixels. Values outside
    [0, 1], as augmentation may make, are taken as they are.

    Args:
        channels: of the images.
        mean: what was subtracted from the pixels, one number or one for each channel.
        std: what they were divided by.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        if {len(mean), len(std)} - {1, channels} or min(std) <= 0:
            raise ValueError(
                f"mean {tuple(mean)} and std {tuple(std)} undo the normalisation of images with {channels} channel(s): "
                "give one number or one for each channel, with std > 0"
            )
        self.channels = channels
        self.typical = 0.5 * channels
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Pixels, ``[N, 1, C, h, w]``.

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
        """``[N, C, H, W]``, un-normalised."""
        return images * self.std.to(images) + self.mean.to(images)


class PatchMeans(Pixels):
    """``z``: the mean of the pixels that a cell covers, before they were normalised."""

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Means, ``[N, 1, C, h, w]``."""
        return Values(nn.functional.adaptive_avg_pool2d(self.pixels(images), size).unsqueeze(1))


class PixelsAndInverse(Pixels):
    """``z = [x, 1 - x]``: dark pixels count as much as bright ones (as in B-cos networks, arXiv 2205.10268)."""

    def __init__(self, channels: int, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)) -> None:
        super().__init__(channels, mean, std)
        self.channels = 2 * channels
        self.typical = 1.0 * channels

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Pixels and what they lack of white, ``[N, 1, 2 C, h, w]``; their means on a coarser grid."""
        x = nn.functional.adaptive_avg_pool2d(self.pixels(images), size)
        return Values(torch.cat([x, 1 - x], dim=1).unsqueeze(1))


class LearnedFeatures(Readable):
    """``z``: a few learned features, never negative, made from the deepest feature map by a 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.typical = 0.4 * channels  # the mean of relu of a standard normal
        self.projection = nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.GroupNorm(1, channels), nn.ReLU())

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Features, ``[N, 1, C, h, w]``."""
        projected = self.projection(features[-1].to(images.dtype))
        return Values(nn.functional.interpolate(projected, size, mode="bilinear").unsqueeze(1))


class ClassEvidence(Readable):
    """``z_kp = W_k . F_p``: what a linear classifier on the deepest feature map finds for class ``k`` at ``p``.

    Args:
        in_channels: of the deepest feature map.
        classifier: its weights are where ``W`` starts; None: at zero.
        num_classes: ``K``.
    """

    def __init__(self, in_channels: int, num_classes: int, classifier: nn.Linear | None = None) -> None:
        super().__init__()
        start = torch.zeros(num_classes, in_channels) if classifier is None else classifier.weight.detach().clone()
        if start.shape != (num_classes, in_channels):
            raise ValueError(
                f"the classifier has weights {list(start.shape)}; {num_classes} classes on a feature map of "
                f"{in_channels} channels need [{num_classes}, {in_channels}]"
            )
        self.weight = nn.Parameter(start)

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Seen:
        """Evidence, ``[N, K, 1, h, w]``, once it is asked for."""
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
    """The module for a choice of ``z``."""
    of_pixels = {"pixels": Pixels, "pixels_and_inverse": PixelsAndInverse, "patch_means": PatchMeans}
    if kind in of_pixels:
        return of_pixels[kind](image_channels, mean, std)
    if kind == "features":
        return LearnedFeatures(in_channels, z_channels)
    if kind == "evidence":
        return ClassEvidence(in_channels, num_classes, classifier)
    return Area() if kind == "area" else Ones()
