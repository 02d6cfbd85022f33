"""Normalisation of arguments to positions, by schema, because functions written in C++ have no signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Python's and NumPy's names of schema arguments.
_NAMES = {"input": "self", "x": "self", "a": "self", "x1": "self", "x2": "other", "axis": "dim", "keepdims": "keepdim"}


class Schema(NamedTuple):
    """Argument names of one overload: positional ones, the number of required ones, and all of them."""

    positional: tuple[str, ...]
    required: int
    names: frozenset[str]


def by_position(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with tensors and required ones by position, and NumPy's names replaced by PyTorch's.

    Example::

        >>> by_position(torch.div, (), {"input": 1.0, "other": 2.0, "rounding_mode": "floor"})
        ((1.0, 2.0), {'rounding_mode': 'floor'})
    """
    for schema in schemas(func):
        named = {name if name in schema.names else _NAMES.get(name, name): value for name, value in kwargs.items()}
        if named.keys() <= schema.names | {"out"}:
            break
    else:
        return args, dict(kwargs)
    last = max(
        (place + 1 for place, name in enumerate(schema.positional) if _is_tensors(named.get(name))),
        default=0,
    )
    for name in schema.positional[len(args) : max(last, schema.required)]:
        if name not in named:
            break
        args = (*args, named.pop(name))
    return args, named


@cache
def schemas(func: Callable[..., Any]) -> tuple[Schema, ...]:
    """Return the schemas of a function's overloads, none for functions written in Python."""
    if isinstance(func, torch._ops.OpOverload):
        return (_schema(func),)
    packet = None if inspect.isfunction(func) else getattr(torch.ops.aten, getattr(func, "__name__", ""), None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return ()
    return tuple(_schema(getattr(packet, name)) for name in packet.overloads())


def _schema(overload: torch._ops.OpOverload) -> Schema:
    given = overload._schema.arguments
    positional = [argument for argument in given if not argument.kwarg_only]
    required = sum(not argument.has_default_value() for argument in positional)
    return Schema(tuple(one.name for one in positional), required, frozenset(one.name for one in given))


def _is_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(map(_is_tensors, value)))
