"""Means over images with percentile bootstrap intervals (Efron & Tibshirani 1993, chapter 13).

One set of resampled images serves every column, so that columns stay paired:
the interval of a difference of two methods is that of the column of their
differences, image by image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_align._tools.checks import check_integer, check_number

Array = NDArray[np.float64]

#: Number of resamples for an interval.
RESAMPLES = 10_000
#: Coverage of an interval.
COVERAGE = 0.95
_AT_ONCE = 4_000_000  # counts in memory at a time


@dataclass(frozen=True)
class Interval:
    """Number of finite values, their mean and its interval (NaN where n < 2) for each of C columns."""

    n: NDArray[np.int64]
    mean: Array
    low: Array
    high: Array


def bootstrap_means(values: Any, *, seed: int = 0, resamples: int = RESAMPLES, coverage: float = COVERAGE) -> Interval:
    """Return the mean of each column over its finite values, and its percentile bootstrap interval.

    Rows (images) are drawn with replacement, the same for every column. A
    resampled mean is over the finite values drawn; a resample that drew none of
    a column's is left out for that column.

    Args:
        values: ``[N, C]``, one row per image; values that are not finite are missing.
        seed: seed of a separate generator.
        resamples: number of resamples of N rows.
        coverage: the share of the resampled means between ``low`` and ``high``.

    Raises:
        ValueError: ``values`` does not have two axes, or resamples or coverage are out of range.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2:
        raise ValueError(f"values of shape {list(x.shape)} were given; give [images, columns]")
    check_integer("resamples", resamples)
    check_number("coverage", coverage, above=0, below=1)
    there = np.isfinite(x)
    n = there.sum(0)
    present, filled = there.astype(np.float64), np.where(there, x, 0.0)
    mean = _quotient(filled.sum(0), n)
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    wide = np.flatnonzero(n >= 2)
    if len(wide):
        # centred on the mean, so that large offsets lose no precision
        centred = np.where(there, filled - np.nan_to_num(mean), 0.0)[:, wide]
        means = _resampled_means(centred, present[:, wide], resamples, np.random.default_rng(seed))
        ends = np.nanquantile(means, [(1 - coverage) / 2, (1 + coverage) / 2], axis=0)
        low[wide], high[wide] = ends + mean[wide]
    return Interval(n, mean, low, high)


def _resampled_means(filled: Array, present: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Return the resampled means ``[resamples, C]``: one matrix product of draw counts and rows for all columns."""
    rows = len(filled)
    step = max(1, _AT_ONCE // rows)
    complete = bool(present.all())
    means = []
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = generator.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)
        means.append(times @ filled / rows if complete else _quotient(times @ filled, times @ present))
    return np.concatenate(means)


def _quotient(total: Array, count: Any) -> Array:
    """Return ``total / count``, NaN where ``count`` is 0."""
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=np.asarray(count) > 0)
