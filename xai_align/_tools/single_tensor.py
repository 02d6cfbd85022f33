"""A single tensor of images where Captum's interface also allows a tuple, and pixel maps in its shape."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def only_one(name: str, given: Any) -> Any:
    """Return ``given``, or its only element if it is a tuple.

    Raises:
        ValueError: the tuple has another length.
    """
    if not isinstance(given, tuple):
        return given
    if len(given) != 1:
        raise ValueError(
            f"{len(given)} {name} were given; a mask covers one tensor of images. Give the tensor to explain, "
            "and further inputs of the model as additional_forward_args"
        )
    return given[0]


def like_given(given: Any, values: Tensor) -> Any:
    """Return ``values``, in a tuple of one if ``given`` was a tuple."""
    return (values,) if isinstance(given, tuple) else values


def share_over_channels(maps: Tensor, images: Tensor) -> Tensor:
    """Return maps ``[N, H, W]`` in the shape and dtype of images ``[N, C, H, W]``; channels share a pixel equally."""
    return (maps.unsqueeze(1) / images.shape[1]).expand(images.shape).to(images.dtype).contiguous()
