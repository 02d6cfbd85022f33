"""Means over images with intervals, from two images up.

An interval is Student's t interval of the mean, widened where the values are skewed. Student's t is exact for normal
values at every n, and has too low coverage for skewed ones; a correction for the skewness (P. Hall, *On the removal of
skewness by transformation*, JRSS B 54, 1992; the transformation is monotone, so that it can be inverted) has errors for
symmetric values. On either side, the wider end of the two is used. The interval does not depend on random numbers. The
interval of a difference of two methods is that of the differences, image by image.

With mean m, standard deviation s, skewness γ of n values and U = (m - μ) / s::

    Student:  √n U                                               has the t distribution with n - 1 degrees of freedom
    Hall:     √n (U + γ U² / 3 + γ² U³ / 27 + γ / (6 n))         likewise
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_align._tools.checks import check_number
from xai_align.comparison.student_t import critical_value, two_sided_p

Array = NDArray[np.float64]

#: Coverage of an interval.
COVERAGE = 0.95
#: What an interval is, for tables and pages.
DESCRIPTION = "95 % interval of the mean over images: Student's t, widened for skewed values (Hall 1992)"


#: Why values that are all equal have no interval.
EQUAL = "values that are equal for all images have no interval, as they do not show how much others vary"


@dataclass(frozen=True)
class Interval:
    """Number of finite values, their mean and its interval for each of C columns.

    ``p`` is the two-sided p-value of a mean of 0: below 0.05 where the 95 % interval leaves out 0. ``low``, ``high``
    and ``p`` are NaN where there are fewer than two values. If all n values are equal, there is no interval, as they do
    not show how much others vary, and ``p`` is 1 for zeros, otherwise 2^(1 - n), that of a sign test: all
    have one sign.
    """

    n: NDArray[np.int64]
    mean: Array
    low: Array
    high: Array
    p: Array


def mean_intervals(values: Any, *, coverage: float = COVERAGE) -> Interval:
    """Return the mean of each column over its finite values, its interval, and its p-value.

    Args:
        values: ``[N, C]``, one row per image; values that are not finite are missing.
        coverage: probability that an interval contains the mean of all images of which these are a sample.

    Raises:
        ValueError: ``values`` does not have two axes, or the coverage is out of range.

    Example::

        found = mean_intervals([[0.1, 0.3], [0.2, 0.3], [0.4, 0.5]])
        found.low, found.high  # [2] each
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2:
        raise ValueError(f"values of shape {list(x.shape)} were given; give [images, columns]")
    check_number("coverage", coverage, above=0, below=1)
    columns = [_of_column(column[np.isfinite(column)], coverage) for column in x.T]
    n, *others = zip(*columns, strict=True) if columns else ((), (), (), (), ())
    return Interval(np.array(n, dtype=np.int64), *(np.array(one, dtype=np.float64) for one in others))


def _of_column(x: Array, coverage: float) -> tuple[int, float, float, float, float]:
    """Return n, mean, low, high and p of the finite values ``[n]`` of a column."""
    n = len(x)
    if n < 2:
        return n, float(x[0]) if n else nan, nan, nan, nan
    mean = float(x.mean())
    centred = x - mean  # so that large offsets lose no precision
    s = sqrt(float(centred @ centred) / (n - 1))
    if s <= 1e-14 * float(np.abs(x).max()):  # all equal, but for rounding
        return n, mean, nan, nan, 1.0 if mean == 0 else 2.0 ** (1 - n)
    skew = _skewness(centred / s)
    reach = critical_value(coverage, n - 1) / sqrt(n)
    low = min(-reach, -_inverted(reach, skew, n))  # in units of s, from the mean
    high = max(reach, -_inverted(-reach, skew, n))
    u = mean / s
    p = max(two_sided_p(sqrt(n) * one, n - 1) for one in (u, _transformed(u, skew, n)))
    return n, mean, mean + low * s, mean + high * s, p


def _skewness(z: Array) -> float:
    """Return the sample's skewness, adjusted for its size, of values with mean 0 and variance 1; 0 for two values."""
    n = len(z)
    return float((z**3).sum()) * n / ((n - 1) * (n - 2)) if n > 2 else 0.0


def _transformed(u: float, skew: float, n: int) -> float:
    """Return ``u + γ u² / 3 + γ² u³ / 27 + γ / (6 n)``."""
    return u + skew * u**2 / 3 + skew**2 * u**3 / 27 + skew / (6 * n)


def _inverted(y: float, skew: float, n: int) -> float:
    """Return the ``u`` with ``_transformed(u) = y``: ``3 / γ ((1 + γ (y - γ / (6 n)))^(1/3) - 1)``."""
    if abs(skew) < 1e-9:
        return y
    return 3 / skew * (float(np.cbrt(1 + skew * (y - skew / (6 * n)))) - 1)
