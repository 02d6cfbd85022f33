"""Sum-preserving resizing of maps: from cells to pixels, and its transpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from xai_align._tools.checks import check_choice
from xai_align._tools.full_precision import full_precision

#: "area": a cell is spread evenly over the pixels it covers. "smooth": with linear weights over its neighbours too.
Spread = Literal["area", "smooth"]


def resize_keeping_sum(cells: Tensor, size: Sequence[int], spread: Spread = "area") -> Tensor:
    """Resize ``[..., h, w]`` to ``[..., H, W]`` with the same sum, for any sizes: ``R_h @ cells @ R_w^T``.

    Every column of ``R`` sums to one, so each cell is distributed completely over pixels.

    Raises:
        ValueError: there is no such ``spread``.
    """
    height, width = size
    rows = _spreading(cells.shape[-2], height, spread).to(cells)
    columns = _spreading(cells.shape[-1], width, spread).to(cells)
    with full_precision(cells):
        return rows @ cells @ columns.T


def collect_keeping_sum(pixels: Tensor, size: Sequence[int], spread: Spread = "area") -> Tensor:
    """Apply the transpose of :func:`resize_keeping_sum`: ``[..., H, W]`` to ``[..., h, w]``, ``R_h^T @ pixels @ R_w``.

    ``sum(pixels * resize_keeping_sum(cells)) == sum(collect_keeping_sum(pixels) * cells)``.

    Raises:
        ValueError: there is no such ``spread``.
    """
    height, width = size
    rows = _spreading(height, pixels.shape[-2], spread).to(pixels)
    columns = _spreading(width, pixels.shape[-1], spread).to(pixels)
    with full_precision(pixels):
        return rows.T @ pixels @ columns


def _spreading(cells: int, pixels: int, spread: Spread) -> Tensor:
    """Return ``R[pixel, cell]``, the share of a cell that a pixel receives.

    Raises:
        ValueError: there is no such spread.
    """
    check_choice("spread", spread, get_args(Spread))
    if spread == "area":
        # the overlap of pixel [i, i+1) with the cell's interval [j, j+1) * pixels / cells, over its length
        edges = torch.arange(cells + 1, dtype=torch.float64, device="cpu") * pixels / cells
        i = torch.arange(pixels, dtype=torch.float64, device="cpu")[:, None]
        overlap = (torch.minimum(i + 1, edges[None, 1:]) - torch.maximum(i, edges[None, :-1])).clamp(min=0)
    else:
        # a hat function around the cell's centre, two cells wide
        centres = (torch.arange(pixels, dtype=torch.float64, device="cpu") + 0.5) * cells / pixels - 0.5
        centres = centres.clamp(0, cells - 1)[:, None]
        overlap = (1 - (centres - torch.arange(cells, dtype=torch.float64, device="cpu")[None]).abs()).clamp(min=0)
        # with fewer pixels than cells, a hat can fall between pixels
        overlap = torch.where(overlap.sum(0) == 0, _spreading(cells, pixels, "area"), overlap)
    return overlap / overlap.sum(0)
