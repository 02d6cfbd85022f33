"""How far rounding alone can take a sum from the answer, and a network from itself.

A pass of ``n`` operations rounds ``n`` times. Rounding errors are as often up as
down, so they add like the steps of a random walk: after ``n`` of them a number
of size ``s`` is off by about ``eps * sqrt(n) * s``. For a sum of many terms the
size is the root of the sum of their squares. The bound is four such errors:

    bound = 4 * eps * sqrt(n) * s

A network amplifies the roundings of its early layers, by how much nobody knows
beforehand. So a sum or a logit beyond the bound is not rejected for that. It is
computed once more in float64: where rounding was the cause, the difference
shrinks with eps, by nine digits; where an operation is not what its rule says,
it stays. In float64, which nothing finer can check, the bound leaves room for an
amplification of 2^20 and is still 1e-9 of the size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: How many standard deviations of a random walk.
DEVIATIONS = 4.0
#: By how much a network may amplify its roundings, in float64.
AMPLIFICATION = 2.0**20
#: What is left of a difference in float64 if it came from rounding in float32; eps shrinks by 1.9e-9.
SHRINKS_TO = 1e-4


def misses(difference: Tensor, size: Tensor, operations: int, dtype: torch.dtype) -> Tensor:
    """Return where a difference is larger than rounding in ``dtype`` can explain; NaN always is."""
    amplified = AMPLIFICATION if dtype == torch.float64 else 1
    bound = DEVIATIONS * amplified * torch.finfo(dtype).eps * operations**0.5 * size
    return ~(difference.abs() <= bound)


def wide(x: Tensor) -> Tensor:
    """In float64 where the device has it, so that the sum adds no error of its own."""
    return x.float() if x.device.type == "mps" else x.double()


def example_sums(x: Tensor) -> Tensor:
    """``[N]``: the sum over all axes but the first."""
    return x.reshape(len(x), -1).sum(1)


def total_of(parts: Sequence[Tensor]) -> Tensor:
    """``[N]``: the sum over all parts and all their axes but the first, in float64 where the device has it."""
    return torch.stack([example_sums(wide(part)) for part in parts]).sum(0)


def answer_of(weights: Tensor, logits: Tensor) -> Tensor:
    """``sum_k w_k z_k`` for each example."""
    return example_sums(weights * logits)
