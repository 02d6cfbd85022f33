"""Table of all operations and their treatment in a readout, from the registered rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from xai_align.pinet import gates
from xai_align.pinet.gates.constant_operations import constant_kind
from xai_align.pinet.gates.rule_registry import find_rule, linear

__all__ = ["RULE_MODULES", "Kind", "classify"]

#: "linear": run unchanged. "ruled": rewritten. "constant": a decision, without derivative. "reading": evidence is
#: cut off, and counted. "refused": no rule; a readout raises ``UnknownOperation``.
Kind = Literal["linear", "ruled", "constant", "reading", "refused"]
RULE_MODULES = gates.RULES


def classify(function: Callable[..., Any]) -> Kind:
    """Return the treatment of ``function``, any spelling of an operation, in a readout.

    Example::

        classify(torch.nn.functional.silu)  # "ruled"
        classify(torch.Tensor.add_)  # "linear"
        classify(torch.special.bessel_j0)  # "refused"
    """
    rule = find_rule(function)
    if rule is None:
        return "refused"
    if rule is linear:
        return "linear"
    kind = constant_kind(rule)
    return "constant" if kind == "decision" else "reading" if kind == "reading" else "ruled"
