"""Verdicts of a table: which methods are better or worse than the reference, with one error rate for the whole table.

In a table of many comparisons some differences are significant by chance. S. Holm, *A simple sequentially rejective
multiple test procedure*, 1979: the k-th smallest of m p-values is multiplied by m - k + 1, and what is then below 5 %
is marked. If no method differs from the reference, a table has any mark with a probability of about 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan
from typing import Literal

#: What a table says of a method beside the reference; "": no difference is shown.
Verdict = Literal["better", "worse", ""]
#: Probability of any false verdict in a table.
ERROR_RATE = 0.05
#: Number of images from which differences are judged: with fewer, the values of a skewed metric are too often all on
#: one side of their mean.
JUDGED_FROM = 10


def holm(p_values: Sequence[float]) -> list[float]:
    """Return adjusted p-values; NaN for those that are NaN, which do not count as comparisons.

    Example::

        holm([0.01, 0.04, 0.03])  # [0.03, 0.06, 0.06]
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not isnan(p))
    adjusted = [nan] * len(p_values)
    largest = 0.0
    for k, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - k)))
        adjusted[i] = largest
    return adjusted


def judged_p(p: float, n: int) -> float:
    """Return the p-value of a difference over ``n`` images for a table; NaN if ``n`` is below :data:`JUDGED_FROM`.

    It is at least 2^(1 - n), the smallest that a test without assumptions on the distribution can reach: all
    differences have one sign. In the far tails, the t distribution gives smaller values than so few images justify.

    Example::

        judged_p(0.0, 11)  # 0.000977
    """
    return nan if n < JUDGED_FROM or isnan(p) else max(p, 2.0 ** (1 - n))


def verdict_of(difference: float, adjusted_p: float, *, higher_is_better: bool | None) -> Verdict:
    """Return the verdict on a method whose mean is ``difference`` above the reference's.

    There is none for a metric without a better direction.

    Example::

        verdict_of(-0.2, 0.001, higher_is_better=False)  # "better"
    """
    if higher_is_better is None or not adjusted_p < ERROR_RATE or difference == 0:  # NaN: not judged
        return ""
    return "better" if (difference > 0) == higher_is_better else "worse"
