"""Maps as a page stores them: one byte for each cell and one scale, coarse maps at their own resolution.

A cell's value is the sum of the map over the cell, so it is in the unit of the answer. The value that a page
shows differs from it by at most ``scale / 254``.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from math import ceil, gcd
from typing import TYPE_CHECKING

import numpy as np
import torch

from xai_align.data.overlay import density, limit_of, range_without_sign

if TYPE_CHECKING:
    from torch import Tensor

#: Most cells along one side of a stored map; in finer maps, squares of pixels are added up.
MOST_CELLS = 112
_LARGEST = float(np.finfo(np.float64).max)
#: The byte of a cell without a value (NaN or infinite); the others are 128 plus a whole number from -127 to 127.
NO_VALUE = 0


@dataclass(frozen=True, kw_only=True)
class StoredMap:
    """Map of ``rows`` x ``columns`` cells.

    Attributes:
        rows, columns: number of cells.
        height, width: size of a cell as a share of the picture; the last row and column may be cut off.
        scale: the largest absolute value of a cell.
        low, high: ends of the colour scale, in the unit of a cell's value.
        data: the cells row by row, ``128 + round(127 * value / scale)`` each, as base64.
    """

    rows: int
    columns: int
    height: float
    width: float
    scale: float
    low: float
    high: float
    data: str

    @property
    def tolerance(self) -> float:
        """Largest difference between a value that is shown and the cell's own."""
        return self.scale / 254


def stored_map(values: Tensor, *, signed: bool, cells: Tensor | None = None) -> StoredMap:
    """Return a map as a page stores it.

    Args:
        values: the map ``[H, W]`` on the pixels of the picture.
        signed: whether values below zero are evidence against the answer; determines the ends of the colour scale.
        cells: the same map on the layer's own grid ``[h, w]``, if it has one.

    Example::

        stored = stored_map(torch.ones(224, 224), signed=True)
        stored.rows, stored.scale  # 112 cells of 2 x 2 pixels: (112, 4.0)
    """
    values = values.detach().cpu().double()
    if cells is not None and max(cells.shape) <= MOST_CELLS and cells.numel() < values.numel():
        grid = cells.detach().cpu().double().numpy()
        height, width = 1 / grid.shape[0], 1 / grid.shape[1]
    else:
        side = _cell_side(values)
        grid = _sums_of_squares(values, side).numpy()
        height, width = side / values.shape[0], side / values.shape[1]
    known = np.isfinite(grid)
    largest = float(np.abs(grid[known]).max(initial=0))
    scale = largest if largest > 0 else 1.0
    steps = np.rint(np.where(known, grid, 0) / scale * 127).astype(np.int64) + 128
    shown = density(values, values.shape)
    low, high = (-limit_of(shown), limit_of(shown)) if signed else range_without_sign(shown)
    area = 100 * height * width  # densities are per hundredth of the picture
    return StoredMap(
        rows=grid.shape[0],
        columns=grid.shape[1],
        height=height,
        width=width,
        scale=scale,
        low=max(low * area, -_LARGEST),
        high=min(high * area, _LARGEST),
        data=b64encode(np.where(known, steps, NO_VALUE).astype(np.uint8).tobytes()).decode("ascii"),
    )


def _cell_side(values: Tensor) -> int:
    """Return the side of the squares that become cells: the largest on which the map is constant, or as few as fit."""
    height, width = values.shape
    needed = ceil(max(height, width) / MOST_CELLS)
    common = gcd(height, width)
    for side in range(common, needed, -1):
        if common % side == 0 and _constant_on_squares(values, side):
            return side
    return needed


def _constant_on_squares(values: Tensor, side: int) -> bool:
    squares = values.reshape(values.shape[0] // side, side, values.shape[1] // side, side)
    return bool((squares == squares[:, :1, :, :1]).all())


def _sums_of_squares(values: Tensor, side: int) -> Tensor:
    """Return the sums over squares of ``side`` x ``side`` pixels, those at the lower and right edge cut off."""
    rows, columns = (ceil(length / side) for length in values.shape)
    padded = torch.zeros(rows * side, columns * side, dtype=values.dtype)
    padded[: values.shape[0], : values.shape[1]] = values
    return padded.reshape(rows, side, columns, side).sum((1, 3))
