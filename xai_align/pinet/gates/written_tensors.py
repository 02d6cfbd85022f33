"""Tensors that a call writes to: in place, with ``inplace=True``, or with ``out=``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from xai_align.pinet.gates.rule_registry import Operation

#: Functions that return several views of one tensor.
SEVERAL_VIEWS = frozenset("unbind chunk split split_with_sizes tensor_split hsplit vsplit dsplit".split())


class SharedViews(RuntimeError):
    """Write of the network into one of several views that one call returned (``chunk``, ``unbind``)."""


def written_tensors(operation: Operation, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that this call writes to."""
    out = kwargs.get("out")
    if out is not None:
        return [out] if isinstance(out, Tensor) else list(out)
    if operation.inplace == "self":
        return [args[0]]
    if operation.inplace == "flag" and _flag(func, args, kwargs):
        return [args[0] if args else kwargs[_parameters(func)[0]]]
    return []


def without_flag(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments without ``inplace``."""
    names = _parameters(func)
    given = dict(zip(names, args, strict=False)) | kwargs
    given.pop("inplace", None)
    return (given.pop(names[0]),), given


def separate_views(name: str, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return the parts of ``chunk``, ``unbind`` and the like, each as a view that may be written to."""
    parts = getattr(torch, name)(x.detach(), *args, **kwargs)
    return type(parts)(x.as_strided(part.shape, part.stride(), part.storage_offset()) for part in parts)


def _flag(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if "inplace" in kwargs:
        return bool(kwargs["inplace"])
    index = _parameters(func).index("inplace")
    return bool(args[index]) if len(args) > index else False


@cache
def _parameters(func: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(func).parameters)
