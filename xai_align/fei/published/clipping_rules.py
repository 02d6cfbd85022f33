"""Rules of selective gradient clipping: which gradient entries pass through an activation.

Let ``a0`` be an activation's output for the reference image, ``a`` its current
output, and ``g = dL/da`` the gradient of a loss ``L`` that is *minimised*.
Gradient descent lowers the unit where ``g > 0`` and raises it where ``g <= 0``.
A rule defines for every unit which of the two passes; the rest of ``g`` is set to zero:

| rule   | the unit may fall (keep g > 0)       | the unit may rise (keep g <= 0) |
|--------|--------------------------------------|---------------------------------|
| ibm    | always                               | a0 > 0                          |
| ivm    | always                               | a <= a0                         |
| avm    | a >= a0                              | always                          |
| vm     | a >= a0                              | a < a0                          |
| fgvis  | min(a0, 0) <= a <= max(a0, 0)        | the same                        |
| silent | a0 > 0                               | the same                        |

The first five are FEI's (Zhang & McMillan, arXiv 2509.04588), with the
boundaries of its published code: at ``a == a0`` ivm lets a unit rise, vm does not.

``silent`` is ours. Units that are silent for the reference image are held
constant, so the result is the gradient of one scalar function. That of the
other rules is not a gradient: the entries that pass depend on the sign of ``g``.
Under ibm a silent unit may fall and never rise, and this bias accumulates over
layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xai_align._tools.checks import check_choice

#: The names of the rules, and "none": nothing is clipped.
ClippingMode = Literal["ibm", "ivm", "avm", "vm", "fgvis", "silent", "none"]


class Passes(NamedTuple):
    """Masks of what passes, one boolean for each unit; None: everywhere."""

    fall: Tensor | None
    rise: Tensor | None


@dataclass(frozen=True)
class ClippingRule:
    """Rule of the table above.

    Attributes:
        name: name of the rule.
        needs_values: whether it compares ``a`` with ``a0``; otherwise it needs only ``a0 > 0``.
        passes: ``passes(a0, a)``; without ``needs_values``, ``passes(a0 > 0, a)``.
    """

    name: str
    needs_values: bool
    passes: Callable[[Tensor, Tensor], Passes]

    def remember(self, a0: Tensor) -> Tensor:
        """Return a copy of the values of the reference that the rule needs."""
        return a0.detach().clone() if self.needs_values else a0.detach() > 0


def _both(fall_and_rise: Tensor) -> Passes:
    return Passes(fall_and_rise, fall_and_rise)


#: The rules by name.
RULES: dict[str, ClippingRule] = {
    rule.name: rule
    for rule in (
        ClippingRule("ibm", False, lambda active, a: Passes(None, active)),
        ClippingRule("ivm", True, lambda a0, a: Passes(None, a <= a0)),
        ClippingRule("avm", True, lambda a0, a: Passes(a >= a0, None)),
        ClippingRule("vm", True, lambda a0, a: Passes(a >= a0, a < a0)),
        ClippingRule("fgvis", True, lambda a0, a: _both((a0.clamp(max=0) <= a) & (a <= a0.clamp(min=0)))),
        ClippingRule("silent", False, lambda active, a: _both(active)),
    )
}


def find_clipping_rule(mode: str) -> ClippingRule | None:
    """Return the rule of this name; None for "none".

    Raises:
        ValueError: there is no such rule.
    """
    if mode == "none":
        return None
    check_choice("the clipping mode", mode, [*RULES, "none"])
    return RULES[mode]


def let_pass(g: Tensor, passes: Passes) -> Tensor:
    """Return ``g`` where it passes, and 0 elsewhere; NaN is preserved.

    Args:
        g: gradients; its shape and the masks' broadcast.
        passes: one boolean for each unit.
    """
    fall, rise = passes
    if fall is rise:
        return g if rise is None else torch.where(rise, g, 0)
    if fall is not None:
        g = torch.where(fall, g, g.clamp(max=0))
    if rise is not None:
        g = torch.where(rise, g, g.clamp(min=0))
    return g
