"""Which rule rewrites which operation: looked up by function, then by the name all its spellings share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from xai_align.pinet.frozen_gates import FrozenGates

#: ``rule(gates, func, *args, **kwargs)`` computes what ``func(*args, **kwargs)`` would,
#: linear in every argument that depends on ``z``, with whatever else it needs kept by ``gates.keep``.
Rule: TypeAlias = Callable[..., Any]


class UnknownOperation(NotImplementedError):
    """The network computes something from the feature space that no rule covers."""


def linear(gates: FrozenGates, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The rule of operations that are linear already: as they are."""
    return func(*args, **kwargs)


_rules: dict[Any, Rule] = {}
_found: dict[Any, Rule | None] = {}


def register_rule(*operations: str | Callable[..., Any]) -> Callable[[Rule], Rule]:
    """Decorator: the rule for these operations, by function or by name.

    A name stands for all spellings: ``"add"`` for ``torch.add``, ``Tensor.add_``,
    ``+`` and ``+=``. A rule given for a function goes before one given for its
    name; a later rule replaces an earlier one.

    Example::

        @register_rule("softplus")
        def softplus_as_a_gate(gates, func, x, *args, **kwargs):
            return x * gates.keep(lambda: func(x, *args, **kwargs) / x)
    """

    def remember(rule: Rule) -> Rule:
        for operation in operations:
            _rules[operation] = rule
        _found.clear()
        return rule

    return remember


def find_rule(func: Callable[..., Any]) -> Rule | None:
    """The rule for ``func``, or None."""
    try:
        return _found[func]
    except KeyError:
        _found[func] = _rules[func] if func in _rules else _rules.get(operation_name(func))
        return _found[func]


def operation_name(func: Callable[..., Any]) -> str:
    """The name shared by all spellings: ``__iadd__``, ``add_`` and ``add`` are "add", ``Tensor.T`` is "T"."""
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):
        return getattr(func.__self__, "__name__", name)  # type: ignore[attr-defined]
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        return _PYTHON_OPERATORS.get(name, name)
    return name.rstrip("_") if not name.startswith("_") else name


@cache
def is_inplace(func: Callable[..., Any]) -> bool:
    """Whether ``func`` is the spelling that writes into its first argument."""
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name[3:-2] in _PYTHON_INPLACE)
    return name.endswith("_")


_PYTHON_INPLACE = {
    "add",
    "sub",
    "mul",
    "truediv",
    "div",
    "pow",
    "matmul",
    "floordiv",
    "mod",
    "and",
    "or",
    "xor",
}
_PYTHON_OPERATORS = {
    "iadd": "add",
    "radd": "add",
    "isub": "sub",
    "rsub": "sub",
    "imul": "mul",
    "rmul": "mul",
    "itruediv": "div",
    "truediv": "div",
    "idiv": "div",
    "rtruediv": "rdiv",
    "rmatmul": "matmul",
    "ipow": "pow",
}
