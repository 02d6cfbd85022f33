"""Residual rule: a sum of two branches, rewritten with more weight on the branch that agrees with the sum's sign.

Where ``out = a + b`` adds two things that depend on ``z``, as at a residual connection, they are often large, opposite,
and nearly cancel; a linear rule passes both on in full. With ``w(v) = 1 + gamma [sign(v) = sign(out)]``

    m     = w(a) a + w(b) b
    value = stop(out / m) * m

is the same value, unit by unit. The summand that agrees has the larger size, so ``|m| >= |out|``: nothing is divided by
a small number, and an addition amplifies by at most ``1 + 2 / gamma``. It is the gamma rule for a sum of two terms. A
constant that is added (a bias, a position embedding) is not a branch.

Source: Berend et al. 2026 (ResLRP).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.rule_registry import Rule

Operation = Callable[..., Any]


def residual_rules(gamma: float) -> Mapping[Any, Rule]:
    """Return the rules for additions and subtractions, none for ``gamma = 0``.

    Args:
        gamma: the additional weight of the branch that agrees, 0 or more.

    Raises:
        ValueError: it is negative or not finite.
    """
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"residual is {gamma}; give a finite number, 0 (additions as they are) or more")
    if gamma == 0:
        return {}
    return {"add": partial(_sum, gamma, 1), "sub": partial(_sum, gamma, -1)}


def _sum(
    gamma: float, sign: int, gates: FrozenGates, func: Operation, a: Any, b: Any, *, alpha: float = 1, **kwargs: Any
) -> Any:
    if not (gates.depends(a) and gates.depends(b)):
        return func(a, b, **kwargs) if alpha == 1 else func(a, b, alpha=alpha, **kwargs)
    b = b * (sign * alpha)

    def coefficients() -> tuple[Tensor, Tensor]:
        out = a + b
        w_a, w_b = (1 + gamma * (v.sign() == out.sign()) for v in (a, b))
        m = w_a * a + w_b * b
        share = torch.where(m == 0, 0, out / m)  # then the sum is 0 too
        return w_a * share, w_b * share

    of_a, of_b = gates.save(coefficients)
    return of_a * a + of_b * b
