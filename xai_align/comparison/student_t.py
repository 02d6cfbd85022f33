"""Student's t distribution: p-values and critical values, for any number of degrees of freedom, without SciPy."""

from __future__ import annotations

from functools import lru_cache
from math import atan, exp, isnan, lgamma, nan, pi, sqrt, tan

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(80)
_WIDTHS = 40  # the density is integrated over so many of its widths


def two_sided_p(t: float, freedom: int) -> float:
    """Return the probability of a value at least as far from 0 as ``t``, with ``freedom`` degrees of freedom.

    With t = sqrt(freedom) tan(a), the density is proportional to cos(a)^(freedom - 1), which is smooth: it is
    integrated over the tail, so that small probabilities keep their digits.

    Example::

        two_sided_p(12.706, 1)  # 0.05
    """
    if isnan(t):
        return nan
    start = atan(abs(t) / sqrt(freedom))
    end = min(pi / 2, start + _WIDTHS / sqrt(freedom))
    angles = start + (end - start) * (_NODES + 1) / 2
    # B(1/2, freedom / 2) is the integral of the whole
    whole = lgamma(0.5) + lgamma(freedom / 2) - lgamma((freedom + 1) / 2)
    heights = np.cos(angles) ** (freedom - 1)
    return min(1.0, float(heights @ _WEIGHTS) * (end - start) * exp(-whole))


@lru_cache(maxsize=4096)
def critical_value(coverage: float, freedom: int) -> float:
    """Return the ``t`` with ``coverage`` between -t and t.

    Example::

        critical_value(0.95, 1)  # 12.706
    """
    low, high = 0.0, pi / 2  # of the angle a
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if two_sided_p(sqrt(freedom) * tan(middle), freedom) > 1 - coverage:
            low = middle
        else:
            high = middle
    return sqrt(freedom) * tan(high)
