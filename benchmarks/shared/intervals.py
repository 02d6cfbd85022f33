"""Means with their 95 % intervals, those of ``xai-align compare``, as text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xai_align.comparison.intervals import mean_intervals


def plus_minus(values: NDArray[np.float64], *, sign: str = "") -> list[str]:
    """Format each column's mean and half the width of its interval: ``0.138 ± 0.032``; ``sign="+"`` shows signs.

    Values that are all equal have no interval: ``1.000 ± –``.
    """
    found = mean_intervals(values)
    halves = (found.high - found.low) / 2
    widths = ["–" if np.isnan(half) else f"{half:.3f}" for half in halves]
    return [f"{mean:{sign}.3f} ± {width}" for mean, width in zip(found.mean, widths, strict=True)]


def from_to(differences: Tensor) -> str:
    """Return the mean of differences ``[N]`` and the ends of its interval: ``+0.020; +0.010 to +0.032``."""
    found = mean_intervals(differences[:, None].double().numpy())
    return f"{found.mean[0]:+.3f}; {found.low[0]:+.3f} to {found.high[0]:+.3f}"
