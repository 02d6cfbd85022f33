"""Bounds on rounding error, for a sum against the answer and for a network against itself.

A pass of ``n`` operations rounds ``n`` times. Rounding errors are positive as often as
negative, so they add like the steps of a random walk: after ``n`` of them a number
of magnitude ``s`` is off by about ``eps * sqrt(n) * s``. For a sum of many terms the
magnitude is the root of the sum of their squares. The bound is four such errors:

    bound = 4 * eps * sqrt(n) * s

A network amplifies the rounding errors of its early layers by an unknown factor.
So a sum or a logit beyond the bound is not rejected at once. It is computed again
in float64: if rounding was the cause, the difference shrinks with eps, by nine
digits; if a rule does not compute its operation's value, it remains. In float64,
for which there is no finer check, the bound allows an amplification of 2^20 and
is still 1e-9 of the magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Bound in standard deviations of the random walk.
DEVIATIONS = 4.0
#: Allowed amplification of rounding errors by a network, in float64.
AMPLIFICATION = 2.0**20
#: Fraction of a float32 difference that may remain in float64 if rounding was its cause; eps shrinks by 1.9e-9.
SHRINKS_TO = 1e-4


def misses(difference: Tensor, size: Tensor, operations: int, dtype: torch.dtype) -> Tensor:
    """Return where a difference is larger than rounding in ``dtype`` can explain; NaN always is."""
    amplified = AMPLIFICATION if dtype == torch.float64 else 1
    bound = DEVIATIONS * amplified * torch.finfo(dtype).eps * operations**0.5 * size
    return ~(difference.abs() <= bound)


def wide(x: Tensor) -> Tensor:
    """Return a tensor in float64 where the device supports it, so that summing it adds no error."""
    return x.float() if x.device.type == "mps" else x.double()


def example_sums(x: Tensor) -> Tensor:
    """Return ``[N]``, the sum over all axes but the first."""
    return x.reshape(len(x), -1).sum(1)


def total_of(parts: Sequence[Tensor]) -> Tensor:
    """Return ``[N]``, the sum over all parts and all their axes but the first, in float64 where supported."""
    return torch.stack([example_sums(wide(part)) for part in parts]).sum(0)


def answer_of(weights: Tensor, logits: Tensor) -> Tensor:
    """Return ``sum_k w_k z_k`` for each example."""
    return example_sums(weights * logits)
