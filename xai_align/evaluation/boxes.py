"""Conversion of bounding boxes to masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def boxes_to_masks(boxes: Sequence[Any], size: tuple[int, int]) -> Tensor:
    """Convert boxes ``x, y, w, h`` (centre and size, as shares of width and height) to masks ``[N, H, W]``.

    A pixel belongs to a box if its centre lies in it. A box too thin to contain any pixel centre
    gets the pixels on its own centre line. Boxes are clipped to the image.

    Args:
        boxes: for each image a tensor, array or list ``[n, 4]``; ``n`` may be 0, then the mask is empty.
        size: height and width of the masks, in pixels.

    Raises:
        ValueError: a box does not have four values, has no area, or has its centre outside the image.

    Example::

        boxes_to_masks([[[0.5, 0.25, 0.5, 0.5]], []], (32, 32))  # [2, 32, 32]: the upper middle, and nothing
    """
    return _drawn(boxes, size, _from_centre)


def pixel_boxes_to_masks(boxes: Sequence[Any], size: tuple[int, int]) -> Tensor:
    """Convert boxes ``x1, y1, x2, y2`` in pixels to masks ``[N, H, W]``; otherwise as :func:`boxes_to_masks`.

    Coordinates are of edges, not of pixels: 0, 0, 2, 1 covers the first two pixels of the first row.

    Example::

        pixel_boxes_to_masks([[[8, 0, 24, 16]]], (32, 32))  # [1, 32, 32]
    """
    return _drawn(boxes, size, _from_corners)


def _from_centre(box: Tensor, height: int, width: int) -> tuple[float, float, float, float]:
    x, y, w, h = box.tolist()
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(
            f"the box {box.tolist()} has its centre outside the image; boxes are x, y, w, h as shares of the image "
            "(for corners in pixels use pixel_boxes_to_masks)"
        )
    return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height


def _from_corners(box: Tensor, height: int, width: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.tolist()
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise ValueError(f"the box {box.tolist()} lies outside an image of {height} x {width} pixels (rows x columns)")
    return x1, y1, x2, y2


def _drawn(
    boxes: Sequence[Any],
    size: tuple[int, int],
    edges: Callable[[Tensor, int, int], tuple[float, float, float, float]],
) -> Tensor:
    height, width = size
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, of_image in zip(masks, boxes, strict=True):
        table = torch.as_tensor(of_image, dtype=torch.float64).cpu()
        if not table.numel():
            continue
        if table.dim() != 2 or table.shape[1] != 4 or not bool(table.isfinite().all()):
            raise ValueError(f"the boxes of an image have shape {list(table.shape)}; give [n, 4] finite numbers")
        for box in table:
            left, top, right, bottom = edges(box, height, width)
            if not (left < right and top < bottom):
                raise ValueError(f"the box {box.tolist()} has no area; give a width and a height above 0")
            mask |= _between(top, bottom, height)[:, None] & _between(left, right, width)[None]
    return masks


def _between(start: float, end: float, count: int) -> Tensor:
    """Return the pixels of ``count`` with their centre in [start, end); if there is none, the one in the middle."""
    centres = torch.arange(count, dtype=torch.float64) + 0.5
    inside = (centres >= start) & (centres < end)
    if not bool(inside.any()):
        inside[min(max(int((start + end) / 2), 0), count - 1)] = True
    return inside
