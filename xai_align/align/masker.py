"""Masker: a small network that predicts a mask of the evidence in one forward pass.

    images ─ stem ─ halved ─ halved ─ dilated blocks ─┐       context
               │       └──────────────── + ──── up ───┘
               └──────────────────────── + ─ up ─ smooth ─ logits ─ up ─ sigmoid      exact position

The published description only calls for "a light convolutional network", so the architecture is our
choice. It uses group normalisation, so that an image's mask does not depend on the rest of the batch.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from xai_align._tools.checks import check_integer, check_number
from xai_align.align.masker_layers import convolution, enlarged, last_layer

__all__ = ["Masker"]


class Masker(nn.Module):
    """Network from images to soft masks in [0, 1], near 1 where the evidence is.

    It takes the image and no label, so an image has one mask for all classes. Images may have any size, including odd
    ones. With the defaults it has about 100,000 parameters.

    Args:
        in_channels: of the images.
        width: channels at the finest resolution; twice as many below it.
        depth: dilated blocks at the coarsest resolution, with dilations 1, 2, 4 and so on, which widen the receptive
            field.
        stride: image pixels per cell of the finest resolution: 1 for fine strokes, 4 for large images, where it
            is four times cheaper than 2. Masks have the image's size in any case.
        start: approximate value of untrained masks, inside (0, 1).

    Attributes:
        options: the constructor's arguments; ``Masker(**options)`` builds the same architecture.

    Raises:
        ValueError: an option is out of range.

    Example::

        masks = Masker(width=16)(images)  # [N, 1, H, W], in [0, 1]
    """

    def __init__(
        self, in_channels: int = 3, *, width: int = 24, depth: int = 3, stride: int = 2, start: float = 0.6
    ) -> None:
        super().__init__()
        _check_options(in_channels, width, depth, stride, start)
        self.options: dict[str, Any] = {
            "in_channels": in_channels, "width": width, "depth": depth, "stride": stride, "start": start,
        }  # fmt: skip
        self.in_channels = in_channels
        self.stem = nn.Sequential(*_stem(in_channels, width, stride))
        self.halved = convolution(width, 2 * width, stride=2)
        self.halved_again = convolution(2 * width, 2 * width, stride=2)
        self.blocks = nn.ModuleList(convolution(2 * width, 2 * width, dilation=2**i) for i in range(depth))
        self.lateral = nn.Conv2d(2 * width, width, 1)
        self.smooth = convolution(width, width)
        self.last = last_layer(width, start)

    def forward(self, images: Tensor) -> Tensor:
        """Return masks ``[N, 1, H, W]`` in [0, 1] for images ``[N, C, H, W]``, in the images' dtype.

        Raises:
            ValueError: the images have another shape, or another number of channels than the masker takes.
        """
        return self.logits(images).sigmoid()

    def logits(self, images: Tensor) -> Tensor:
        """Return the masks before the sigmoid, ``[N, 1, H, W]``."""
        if images.dim() != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"the masker was made for images [N, {self.in_channels}, H, W] and got {list(images.shape)}; "
                "build one with Masker(in_channels=...) for others"
            )
        fine = self.stem(images)
        middle = self.halved(fine)
        coarse = self.halved_again(middle)
        for block in self.blocks:
            coarse = coarse + block(coarse)
        coarse = self.lateral(middle + enlarged(coarse, middle))
        cells = self.last(self.smooth(fine + enlarged(coarse, fine)))
        # upsampled before the sigmoid, for edges between cells; not in half precision, which is coarse near 1
        return enlarged(cells.to(images.dtype), images)


def _stem(channels: int, width: int, stride: int) -> list[nn.Module]:
    """Build the stem, from the image to the finest resolution."""
    if stride < 4:
        return [convolution(channels, width, stride=stride)]
    return [convolution(channels, width, stride=2), convolution(width, width, stride=2)]


def _check_options(in_channels: int, width: int, depth: int, stride: int, start: float) -> None:
    least = {"in_channels": (in_channels, 1), "width": (width, 1), "depth": (depth, 0)}
    for option, (value, lowest) in least.items():
        check_integer(option, value, least=lowest)
    if stride not in (1, 2, 4):
        raise ValueError(f"stride is {stride!r}; give 1, 2 or 4 image pixels to a cell")
    check_number("start", start, above=0, below=1)
