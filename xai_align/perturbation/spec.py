"""Specification of a perturbation: the order of removal, the shares to remove, and the fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from xai_align._tools.checks import check_choice, check_fractions, check_integer
from xai_align.perturbation.fills import label_of

#: "morf": most relevant features are removed first. "lerf": least relevant first, the exact reverse.
#: "single": each feature is removed alone; a fraction names the last feature that "morf" would remove.
Order = Literal["morf", "lerf", "single"]

#: 0.1, 0.2, ..., 0.9
TENTHS = tuple(tenth / 10 for tenth in range(1, 10))


@dataclass(frozen=True)
class PerturbationSpec:
    """Perturbation: which features are removed in which order, and their fill.

    Attributes:
        fill: replacement of removed features; see :mod:`xai_align.perturbation.fills`. "drop": patches are left out of
            a transformer's tokens; ``grid`` is then that of its patches.
        order: "morf": most relevant first; "lerf": least relevant first; "single": each feature alone.
        fractions: shares of the features that are removed, in [0, 1].
        grid: rows and columns of a grid whose cells are the features; None: positions.
        layers: whether hidden layers are recorded.

    Example::

        PerturbationSpec("blur", "lerf", (0.25, 0.5), grid=(7, 7)).label  # "lerf blur 7x7"
    """

    fill: Any = 0.0
    order: Order = "morf"
    fractions: tuple[float, ...] = TENTHS
    grid: tuple[int, int] | None = None
    layers: bool = False

    def __post_init__(self) -> None:
        check_fractions("fractions", self.fractions)
        check_choice("order", self.order, get_args(Order))
        if isinstance(self.fill, np.ndarray):
            raise TypeError("the fill is a NumPy array; give a tensor, e.g. torch.from_numpy(fill)")
        if isinstance(self.fill, Real) and not isfinite(self.fill):
            raise ValueError(f"fill must be a finite number, got {self.fill!r}")

    @property
    def label(self) -> str:
        """Name for tables and plots, e.g. ``"morf blur"``."""
        return f"{self.order} {label_of(self.fill)}" + (f" {self.grid[0]}x{self.grid[1]}" if self.grid else "")


def steps(count: int) -> tuple[float, ...]:
    """Return ``0, 1/n, ..., 1``."""
    check_integer("num_steps", count)
    return tuple(step / count for step in range(count + 1))


def removed_count(fraction: float, features: int) -> int:
    """Return ``floor(fraction * features)`` in exact arithmetic: 0.29 of 100 features are 29."""
    return int(Fraction(fraction).limit_denominator(10**6) * features)


def grid_mask(positions: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Return labels ``[H, W]`` of the cells of a grid: cell ``(r, c)`` covers rows ``[H r / R, H (r + 1) / R)`` etc.

    Raises:
        ValueError: the inputs are not images, or smaller than the grid.
    """
    if len(positions) != 2:
        raise ValueError(f"a grid of cells needs images, the inputs have positions {list(positions)}")
    (height, width), (rows, columns) = positions, grid
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise ValueError(f"a grid of {rows} x {columns} cells does not fit {height} x {width} pixels; give fewer cells")
    row = torch.arange(height) * rows // height
    column = torch.arange(width) * columns // width
    return row[:, None] * columns + column
