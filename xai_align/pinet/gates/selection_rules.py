"""Rules for selections: the selected value flows, its index is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xai_align.pinet.gates.constant_operations import decision
from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.product_rules import euler
from xai_align.pinet.gates.rule_registry import find_operation, register_rule

Function = Callable[..., Any]


@register_rule("maximum", "fmax")
def larger(gates: FrozenGates, func: Function, a: Tensor, b: Tensor) -> Tensor:
    """Return the larger of two values, with the choice held; the first if equal."""
    return torch.where(gates.save(lambda: a >= b), a, b)


@register_rule("minimum", "fmin")
def smaller(gates: FrozenGates, func: Function, a: Tensor, b: Tensor) -> Tensor:
    """Return the smaller of two values, with the choice held; the first if equal."""
    return torch.where(gates.save(lambda: a <= b), a, b)


@register_rule("where")
def choice(gates: FrozenGates, func: Function, *args: Any) -> Any:
    """Select by a condition: linear in the tensors, because the condition is already a constant."""
    return func(*args) if len(args) > 1 else decision(gates, func, *args)


@register_rule("max", "min")
def extreme(gates: FrozenGates, func: Function, x: Tensor, *args: Any, keepdim: bool = False) -> Any:
    """Return the extreme of a tensor, along a dimension, or of two tensors, with its index held."""
    is_max = find_operation(func).name == "max"
    if not args:
        place = gates.save(lambda: x.flatten().argmax() if is_max else x.flatten().argmin())
        return x.flatten()[place]
    if isinstance(args[0], Tensor):
        return (larger if is_max else smaller)(gates, func, x, args[0])
    dim, keepdim = (*args, keepdim)[:2]
    find = torch.max if is_max else torch.min
    places = gates.save(lambda: find(x, dim, keepdim=True).indices)
    values = x.gather(dim, places)
    kind = torch.return_types.max if is_max else torch.return_types.min
    return kind((values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim)))


@register_rule("amax", "amin")
def extreme_over_dimensions(
    gates: FrozenGates, func: Function, x: Tensor, dim: Any = (), keepdim: bool = False
) -> Tensor:
    """Return the first extreme, with its index held (autograd would split ties)."""
    if x.dim() == 0:
        return func(x)
    dims = sorted({d % x.dim() for d in ((dim,) if isinstance(dim, int) else dim)}) or list(range(x.dim()))
    moved = x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))
    find = torch.argmax if find_operation(func).name == "amax" else torch.argmin
    values = moved.gather(-1, gates.save(lambda: find(moved, -1, keepdim=True))).squeeze(-1)
    return values.reshape([1 if d in dims else size for d, size in enumerate(x.shape)]) if keepdim else values


@register_rule("aminmax")
def both_extremes(
    gates: FrozenGates, func: Function, x: Tensor, *, dim: int | None = None, keepdim: bool = False
) -> Any:
    """Return the first minimum and the first maximum, with their indices held."""
    over = () if dim is None else dim
    low, high = (extreme_over_dimensions(gates, which, x, over, keepdim) for which in (torch.amin, torch.amax))
    return torch.return_types.aminmax((low, high))


@register_rule("topk", "sort", "msort", "kthvalue", "median", "nanmedian", "mode", "cummax", "cummin")
def ordered(gates: FrozenGates, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return values gathered by held indices."""
    name = find_operation(func).name
    if name == "msort":
        return ordered(gates, torch.sort, x, dim=0).values
    if name in ("median", "nanmedian") and not args and not kwargs:
        flat = x.flatten()
        return flat[gates.save(lambda: getattr(torch, name)(flat, 0).indices)]
    found = gates.save(lambda: tuple(func(x, *args, **kwargs)))
    place_of_dim = 1 if name in ("topk", "kthvalue") else 0
    dim = kwargs.get("dim", args[place_of_dim] if len(args) > place_of_dim else -1)
    places = found[1]
    lost_dim = places.dim() < x.dim()
    values = x.gather(dim, places.unsqueeze(dim) if lost_dim else places)
    return getattr(torch.return_types, name)((values.squeeze(dim) if lost_dim else values, places))


@register_rule("scatter_reduce", "index_reduce")
def reduced_into(
    gates: FrozenGates, func: Function, x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, **kwargs: Any
) -> Tensor:
    """Reduce into a tensor: homogeneous in both tensors, of degree 1, or of the number of factors for a product."""
    if find_operation(func).name == "index_reduce":  # has no second derivative
        index = index.view([-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())]).expand_as(src)
        func = torch.scatter_reduce
    both = torch.cat([x.flatten(), src.flatten()])
    degree: Any = 1
    if reduce == "prod":
        factors = torch.ones_like if kwargs.get("include_self", True) else torch.zeros_like
        degree = torch.scatter_add(factors(x.detach()), dim, index, torch.ones_like(src.detach())).clamp_min_(1)

    def reduced(both: Tensor) -> Any:
        return func(both[: x.numel()].view(x.shape), dim, index, both[x.numel() :].view(src.shape), reduce, **kwargs)

    return euler(gates, reduced, both, degree)


@register_rule("scatter")
def scattered(
    gates: FrozenGates, func: Function, x: Tensor, dim: int, index: Tensor, src: Any, *, reduce: str | None = None
) -> Any:
    """Scatter values, which is linear in them, also for sums.

    Raises:
        NotImplementedError: ``reduce="multiply"``.
    """
    if reduce is None:
        return func(x, dim, index, src)
    if reduce == "add":
        src = src if isinstance(src, Tensor) else torch.full_like(index, src, dtype=x.dtype)
        return x.scatter_add(dim, index, src)
    raise NotImplementedError(f"scatter with reduce={reduce!r} has no rule; read out at a later layer")
