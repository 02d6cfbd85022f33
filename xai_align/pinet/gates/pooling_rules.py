"""Rules for pooling: for one input, max pooling is a gather with held indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.rule_registry import find_operation, register_rule

_POOLS: dict[str, Callable[..., Any]] = {
    "max_pool1d": F.max_pool1d_with_indices,
    "max_pool2d": F.max_pool2d_with_indices,
    "max_pool3d": F.max_pool3d_with_indices,
    "adaptive_max_pool1d": F.adaptive_max_pool1d_with_indices,
    "adaptive_max_pool2d": F.adaptive_max_pool2d_with_indices,
    "adaptive_max_pool3d": F.adaptive_max_pool3d_with_indices,
}


@register_rule(*_POOLS, *(f"{name}_with_indices" for name in _POOLS))
def max_pool(gates: FrozenGates, func: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return the maximum of each window, with its index held."""
    spelled = find_operation(func).name
    name = spelled.removesuffix("_with_indices")
    places = gates.save(lambda: _POOLS[name](x, *args, **kwargs)[1])
    spatial = int(name[-2])
    values = x.flatten(-spatial).gather(-1, places.flatten(-spatial)).view(places.shape)
    return values if name == spelled else (values, places)


@register_rule("lp_pool1d", "lp_pool2d", "lp_pool3d")
def power_pool(
    gates: FrozenGates, func: Callable[..., Any], x: Tensor, norm_type: float, *args: Any, **kwargs: Any
) -> Tensor:
    """Return ``||x||_p = sum x * stop(x^(p-1) / ||x||_p^(p-1))`` over each window."""
    value = gates.save(lambda: func(x, norm_type, *args, **kwargs))
    shares = gates.save(lambda: x.pow(norm_type - 1))
    sums = func(x * shares, 1, *args, **kwargs)
    return sums * gates.save(lambda: torch.where(value == 0, 1, value).pow(1 - norm_type))


@register_rule("max_unpool1d", "max_unpool2d", "max_unpool3d")
def max_unpool(
    gates: FrozenGates, func: Callable[..., Any], x: Tensor, indices: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Put each value at its index; where indices coincide, use the value that the function uses."""
    spatial = int(find_operation(func).name[-2])
    numbers = torch.arange(x.flatten(-spatial).shape[-1], device=x.device, dtype=torch.float64).expand(
        x.flatten(-spatial).shape
    )
    taken = func(numbers.reshape(x.shape), indices, *args, **kwargs)
    places = indices.flatten(-spatial)
    wins = taken.flatten(-spatial).gather(-1, places) == numbers
    empty = torch.zeros(taken.flatten(-spatial).shape, dtype=x.dtype, device=x.device)
    return empty.scatter_add(-1, places, x.flatten(-spatial) * wins).view(taken.shape)
