"""Operations that return constants: decisions, which have no derivative, and values read by Python."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from xai_align.pinet.gates.frozen_gates import FrozenGates, detached, never
from xai_align.pinet.gates.rule_registry import Rule, find_operation, register_rule

Function = Callable[..., Any]

#: Booleans, integers, indices, and step functions: their derivative is zero wherever it exists.
DECISIONS = """
    gt ge lt le eq ne greater greater_equal less less_equal not_equal isnan isinf isfinite isneginf isposinf isreal
    isin isclose allclose equal is_nonzero argmax argmin argsort argwhere searchsorted bucketize sign signbit round
    floor ceil trunc fix nonzero nonzero_static count_nonzero logical_not logical_and logical_or logical_xor any all
    histc bincount multinomial heaviside one_hot floor_divide rfloordiv bitwise_not bitwise_and bitwise_or
    bitwise_xor __contains__ __bool__ __nonzero__ __int__ __long__ __index__ bool int long short byte char
    _nested_tensor_from_mask_left_aligned
"""
#: New tensors, with the shape, dtype or device of an argument and none of its values.
NEW_TENSORS = """
    zeros_like ones_like empty_like rand_like randn_like randint_like new_zeros new_ones new_empty new_empty_strided
"""
#: New tensors whose fill values may be tensors.
FILLED_TENSORS = "full full_like new_full arange linspace logspace range scalar_tensor new_tensor new"
#: Operations whose result leaves the graph although it has a derivative.
READINGS = """
    detach data item tolist numpy tensor __array__ __float__ __complex__ __format__ __repr__ detach_copy
    __deepcopy__ untyped_storage storage unique unique_consecutive histogram
"""


@register_rule(*DECISIONS.split())
def decision(gates: FrozenGates, func: Function, *args: Any, **kwargs: Any) -> Any:
    """Return ``stop(f(x))`` of a function without derivative."""
    args, kwargs = tree_map(detached, (args, kwargs))
    value = gates.save(lambda: func(*args, **kwargs))
    gates.stops(_name(func))
    return value


@register_rule(*READINGS.split())
def reading(gates: FrozenGates, func: Function, *args: Any, **kwargs: Any) -> Any:
    """Return ``stop(x)``, and count the evidence in ``x`` as cut off."""
    if not gates.recording:
        return gates.save(never)
    args, kwargs = tree_map(detached, (args, kwargs))
    value = gates.save(lambda: func(*args, **kwargs))
    if any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in tree_leaves(args)):
        gates.cuts(_name(func))
        gates.stops(_name(func))
    gates.note_aliases(value, args)
    return value


@register_rule(*NEW_TENSORS.split())
def new_tensor(gates: FrozenGates, func: Function, *args: Any, **kwargs: Any) -> Any:
    """Run the function unchanged, because it does not use the argument's values."""
    return func(*args, **kwargs)


@register_rule(*FILLED_TENSORS.split())
def filled_tensor(gates: FrozenGates, func: Function, *args: Any, **kwargs: Any) -> Any:
    """Apply :func:`reading` to the fill values of the new tensor; arguments that only give a shape do not matter."""
    shape_only = find_operation(func).name in ("full_like", "new_full", "new_tensor", "new")
    if gates.depends(args[1:] if shape_only else args, kwargs):
        return reading(gates, func, *args, **kwargs)
    return func(*args, **kwargs)


@register_rule("as_tensor", "asarray")
def as_tensor(gates: FrozenGates, func: Function, data: Any, *args: Any, **kwargs: Any) -> Any:
    """Return a tensor unchanged; read the numbers of a list of tensors, which cuts them off."""
    return (cast if isinstance(data, Tensor) else reading)(gates, func, data, *args, **kwargs)


@register_rule("detach_")
def detaching(gates: FrozenGates, func: Function, x: Tensor) -> Tensor:
    """Detach ``x`` in place (``x.detach_()``), which makes it a constant."""
    value = gates.save(lambda: x)
    if gates.recording:
        gates.cuts("detach_")
        gates.stops("detach_")
        return func(x)
    x.data = value
    return x


@register_rule("register_hook", "retain_grad", "register_post_accumulate_grad_hook")
def gradient_hook(gates: FrozenGates, func: Function, *args: Any, **kwargs: Any) -> Any:
    """Do nothing, because the gradients of a readout are not the network's."""
    return RemovableHandle(OrderedDict()) if func is not Tensor.retain_grad else None


@register_rule("requires_grad", "is_leaf")
def graph_flag(gates: FrozenGates, func: Function, x: Tensor) -> bool:
    """Return the flag as recorded, because a network may branch on it and a replay has no graph."""
    return gates.recall(lambda: func(x))


@register_rule("to", "type", "type_as", "float", "double", "half", "bfloat16", "cfloat", "cdouble", "_to_copy")
def cast(gates: FrozenGates, func: Function, *args: Any, **kwargs: Any) -> Any:
    """Treat a cast between floating types as linear, and one to integers as a decision."""
    value = func(*args, **kwargs)
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():  # x.type() returns a string
        return value
    return gates.save(lambda: value)


for _rule in (decision, reading, detaching, graph_flag, gradient_hook, new_tensor, filled_tensor):
    _rule.is_constant = True  # type: ignore[attr-defined]


def constant_kind(rule: Rule | None) -> str | None:
    """Return "decision" or "reading" for rules that return constants, None for others."""
    kinds: dict[Rule | None, str] = {
        decision: "decision",
        new_tensor: "decision",
        graph_flag: "decision",
        gradient_hook: "decision",
    }
    kinds |= dict.fromkeys((reading, detaching, filled_tensor), "reading")
    return kinds.get(rule)


def _name(func: Function) -> str:
    return find_operation(func).name.strip("_") if func is not torch.tensor else "tensor"
