"""Check of a batch of images."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from xai_align._tools.checks import check_finite


def check_images(name: str, images: Any, *, finite: bool = True) -> Tensor:
    """Return a batch of images: a floating-point tensor ``[N, C, H, W]`` with at least one pixel.

    Raises:
        TypeError: not a tensor, or not of floating point.
        ValueError: another shape, or NaN or infinity (unless ``finite`` is False).
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{name} must be a floating-point tensor [N, C, H, W], got {found}")
    if images.dim() != 4 or not images.numel():
        raise ValueError(f"{name} must have the shape [N, C, H, W] with at least one pixel, got {list(images.shape)}")
    if finite:
        check_finite(name, images)
    return images
