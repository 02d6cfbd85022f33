"""Tail of the binomial distribution, for exact tests of counts."""

from __future__ import annotations

from math import exp, lgamma, log


def binomial_tail(count: int, of: int, rate: float) -> float:
    """Return the probability of ``count`` or more successes in ``of`` independent trials of this rate.

    By Hoeffding (1956) it also bounds that of trials with different rates whose mean is ``rate``, if ``count`` is
    at least ``of * rate + 1``.

    Example::

        binomial_tail(9, 10, 0.5)  # 11 / 1024
    """
    if count <= 0:
        return 1.0
    if not 0 < rate < 1:
        return float(rate >= 1 and count <= of)
    terms = (
        exp(lgamma(of + 1) - lgamma(k + 1) - lgamma(of - k + 1) + k * log(rate) + (of - k) * log(1 - rate))
        for k in range(count, of + 1)
    )
    return min(1.0, sum(terms))
