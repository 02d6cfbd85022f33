"""Registry of rules by operation, where every spelling of an operation is first brought to one form.

An operation is called as a function (``torch.add``), a method (``x.add``), in
place (``x.add_``, ``x += y``, ``inplace=True``), with ``out=``, by an operator or
as an ``aten`` overload of an exported graph. A rule is written once, for the
out-of-place form; :class:`~xai_align.pinet.gates.frozen_gates.FrozenGates`
writes its result to the target of the call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

#: ``rule(gates, func, *args, **kwargs)`` computes the value of ``func(*args, **kwargs)``,
#: linear in every argument that depends on ``z``, with all other values saved by ``gates.save``.
Rule: TypeAlias = Callable[..., Any]


class UnknownOperation(NotImplementedError):
    """Operation on the feature space that no rule covers.

    Example::

        class Bessel(nn.Module):
            def forward(self, x):
                return torch.special.bessel_j0(x).flatten(1)

        try:
            read_out(Bessel(), images, 281)
        except UnknownOperation as error:
            print(error)  # names the operation and the module
    """


def linear(gates: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run an operation that is already linear, unchanged."""
    return func(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Operation:
    """One intercepted function.

    Attributes:
        name: shared by all spellings: "add" for ``torch.add``, ``Tensor.add_`` and ``+=``.
        compute: the out-of-place function.
        rule: its rule; None if there is none.
        inplace: "self": writes to its first argument. "flag": does so if called with ``inplace=True``.
    """

    name: str
    compute: Callable[..., Any]
    rule: Rule | None
    inplace: Literal["self", "flag"] | None


_rules: dict[Any, Rule] = {}
_found: dict[Any, Operation] = {}


def register_rule(*operations: str | Callable[..., Any]) -> Callable[[Rule], Rule]:
    """Register the decorated rule for these operations, given by function or by name.

    A name stands for all spellings: ``"add"`` for ``torch.add``, ``Tensor.add_``,
    ``+`` and ``+=``. The rule is called with the out-of-place function. A rule
    registered for a function takes precedence over one for its name; a later rule
    replaces an earlier one. Every readout compares the logits with the plain
    network's and the sum with the answer, so a rule whose value differs from its
    operation's, or one that is not linear, raises ``CompletenessError``.

    Example::

        @register_rule("special_bessel_j1")
        def bessel_j1_as_an_activation(gates, func, x):
            return x * gates.save(lambda: torch.where(x == 0, 0, func(x) / x))
    """

    def remember(rule: Rule) -> Rule:
        for operation in operations:
            _rules[operation] = rule
        _found.clear()
        return rule

    return remember


def find_operation(func: Callable[..., Any]) -> Operation:
    """Return the operation of ``func``; its rule is None if none is registered."""
    found = _found.get(func)
    if found is None:
        found = _found[func] = _operation(func)
    return found


def find_rule(func: Callable[..., Any]) -> Rule | None:
    """Return the rule for ``func``, or None."""
    return find_operation(func).rule


def operation_name(func: Callable[..., Any]) -> str:
    """Return the name shared by all spellings: ``__iadd__``, ``add_`` and ``aten::add.Tensor`` are "add".

    Conversions to Python's own types keep their underscores (``__complex__`` is not ``torch.complex``), and setting a
    property is ``"data.__set__"``.
    """
    return _name_and_writes(func)[0]


def is_inplace(func: Callable[..., Any]) -> bool:
    """Return whether ``func`` is the in-place spelling, which writes to its first argument."""
    return find_operation(func).inplace == "self"


def _operation(func: Callable[..., Any]) -> Operation:
    name, writes = _name_and_writes(func)
    compute = func
    overload = _overload_name(func)
    if writes:
        compute = _out_of_place(name, func)
    rule = None
    for key in (func, compute, getattr(torch, name, None) if overload else None, name):
        try:
            rule = _rules.get(key) if key is not None else None
        except TypeError:  # not hashable
            continue
        if rule is not None:
            if overload and callable(key) and key is not func:
                compute = key  # takes the same arguments, in more forms
            break
    if rule is None and name.startswith("special_"):
        rule = _rules.get(_SPECIAL.get(name, name.removeprefix("special_")))
    inplace: Literal["self", "flag"] | None = "self" if writes else "flag" if _has_flag(func) else None
    return Operation(name, compute, rule, inplace)


def _name_and_writes(func: Callable[..., Any]) -> tuple[str, bool]:
    overload = _overload_name(func)
    if overload is not None:
        name = overload.removeprefix("_") if overload.lstrip("_") in _PRIVATE_ATEN else overload
        return (_strip(name), True) if _is_written(name) else (_ATEN.get(name, _ALIASES.get(name, name)), False)
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):
        of = getattr(func.__self__, "__name__", name)  # type: ignore[attr-defined]
        return (of, False) if name == "__get__" else (f"{of}.__set__", True)
    if name.startswith("__") and name.endswith("__"):
        plain = name[2:-2]
        if plain in _OPERATORS:
            return _OPERATORS[plain], False
        if plain.startswith("i") and plain[1:] in _OPERATORS and plain not in ("invert", "index", "int"):
            return _OPERATORS[plain[1:]], True
        return ("setitem", True) if plain == "setitem" else (name, False)
    return (_strip(name), True) if _is_written(name) else (_ALIASES.get(name, name), False)


def _is_written(name: str) -> bool:
    return name.endswith("_") and not name.startswith("__") and name not in _NOT_WRITING


def _strip(name: str) -> str:
    name = name[:-1]
    return _ALIASES.get(name, name)


def _out_of_place(name: str, func: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that computes the value that ``func`` writes."""
    spelled = getattr(func, "__name__", "")
    if spelled.startswith("__i"):
        return getattr(Tensor, f"__{spelled[3:]}", func)
    base = spelled.rstrip("_") if not spelled.startswith("_") else spelled[:-1]
    overload = _overload_name(func)
    if overload is not None:
        packet = getattr(torch.ops.aten, overload.rstrip("_"), None)
        if packet is None:
            return func
        overload_name = getattr(func, "_overloadname", "default")
        found = getattr(packet, overload_name) if overload_name in packet.overloads() else packet
        # an overload of the same name may be for Python numbers: aten::ldexp(float x, int i)
        return found if found is packet or str(found._schema.arguments[0].type) == "Tensor" else packet
    for home in (Tensor, torch, F):
        found = getattr(home, base, None)
        if callable(found):
            return found
    return func


def _has_flag(func: Callable[..., Any]) -> bool:
    """Return whether this function of ``torch.nn.functional`` takes ``inplace``."""
    if not inspect.isfunction(inspect.unwrap(func) if hasattr(func, "__wrapped__") else func):
        return False
    try:
        return "inplace" in inspect.signature(func).parameters
    except (TypeError, ValueError):
        return False


def _overload_name(func: Any) -> str | None:
    """Return ``relu_`` for ``torch.ops.aten.relu_.default`` and its packet, None for other functions."""
    if isinstance(func, torch._ops.OpOverload):
        return str(func._schema.name.split("::")[1])
    if isinstance(func, torch._ops.OpOverloadPacket):
        return str(func.__name__)
    return None


#: Names that end in an underscore but do not write.
_NOT_WRITING = frozenset(("requires_grad_", "share_memory_", "pin_memory_", "rename_"))
#: Python's operators, including reflected ones; with a leading "i" they write.
_OPERATORS = {
    "add": "add", "radd": "add", "sub": "sub", "rsub": "rsub", "mul": "mul", "rmul": "mul", "truediv": "div",
    "div": "div", "rtruediv": "rdiv", "rdiv": "rdiv", "matmul": "matmul", "rmatmul": "rmatmul", "pow": "pow",
    "rpow": "rpow", "floordiv": "floor_divide", "rfloordiv": "rfloordiv", "mod": "remainder", "rmod": "rmod",
    "and": "bitwise_and", "rand": "bitwise_and", "or": "bitwise_or", "ror": "bitwise_or", "xor": "bitwise_xor",
    "rxor": "bitwise_xor", "lshift": "bitwise_left_shift", "rlshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift", "rrshift": "bitwise_right_shift", "invert": "bitwise_not", "neg": "neg",
    "pos": "positive", "abs": "abs", "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge",
    "getitem": "getitem",
}  # fmt: skip
#: Functions whose name differs from the method's.
_ALIASES = {
    "_threshold": "threshold", "log_sigmoid": "logsigmoid", "absolute": "abs", "subtract": "sub", "multiply": "mul",
    "divide": "div", "true_divide": "div", "negative": "neg", "arctan2": "atan2", "clip": "clamp",
    "grid_sampler": "grid_sample", "grid_sampler_2d": "grid_sample", "grid_sampler_3d": "grid_sample",
}  # fmt: skip
#: Operators of exported graphs, by the name of their function.
_ATEN = {
    "_softmax": "softmax", "_log_softmax": "log_softmax", "_unsafe_view": "view", "_reshape_alias": "view",
    "log_sigmoid": "logsigmoid", "upsample_bilinear2d": "interpolate",
    "upsample_nearest2d": "interpolate", "upsample_bicubic2d": "interpolate", "sym_size": "size",
    "sym_numel": "numel", "sym_stride": "stride",
}  # fmt: skip
_PRIVATE_ATEN = frozenset(("to_copy",))
#: Functions of ``torch.special`` that have another name elsewhere.
_SPECIAL = {
    "special_expit": "sigmoid", "special_psi": "digamma", "special_gammaln": "lgamma",
    "special_multigammaln": "mvlgamma", "special_gammainc": "igamma", "special_gammaincc": "igammac",
}  # fmt: skip
