"""Norms as affine maps, with the scale of this input held: centre, scale, weight, bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align._tools.replica import LOW_PRECISION
from xai_align.pinet.gates.dependence import look_at
from xai_align.pinet.gates.frozen_gates import FrozenGates, never
from xai_align.pinet.gates.gate_rules import Gated
from xai_align.pinet.gates.product_rules import product
from xai_align.pinet.gates.rule_registry import find_operation, register_rule

Operation = Callable[..., Any]


class FrozenNorm(torch.autograd.Function):
    """Value of ``found = (value, scale, weight, dims)``: centred, times ``scale`` and ``weight``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, found: tuple[Tensor, Tensor, Tensor | None, tuple[int, ...]]) -> Tensor:
        """Return the computed value."""
        value, scale, weight, ctx.dims = found
        ctx.save_for_backward(scale, weight)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return ``g - mean g`` for ``g = gradient * weight * scale``."""
        scale, weight = ctx.saved_tensors
        g = gradient * scale if weight is None else (gradient * weight).mul_(scale)
        return g.sub_(g.mean(ctx.dims, keepdim=True)), None


@register_rule(F.layer_norm)
def layer_norm(
    gates: FrozenGates,
    func: Operation,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Return ``(x - mean x) * stop(1 / sigma) * weight + bias``."""
    dims = tuple(range(-len(normalized_shape), 0))
    if gates.recall(lambda: look_at((weight, bias), {})[0] or x.dtype in LOW_PRECISION or gates.written_out):
        return _affine(gates, _standardised(gates, x, dims, eps), weight, bias)
    if not gates.recording:
        value = (x - x.mean(dims, keepdim=True)) * gates.save(never)
        value = value if weight is None else value * weight
        return value if bias is None else value + bias
    with torch.no_grad():
        value, _, scale = torch.native_layer_norm(x, list(normalized_shape), weight, bias, eps)
    gates.save(lambda: scale)
    return FrozenNorm.apply(x, (value, scale, weight, dims))


@register_rule(torch.layer_norm)
def layer_norm_of_torch(
    gates: FrozenGates,
    func: Operation,
    x: Tensor,
    shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Apply :func:`layer_norm` to the arguments of ``torch.layer_norm``."""
    return layer_norm(gates, func, x, shape, weight, bias, eps)


@register_rule("rms_norm")
def rms_norm(
    gates: FrozenGates,
    func: Operation,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Return ``x * stop(1 / rms) * weight``."""
    dims = tuple(range(-len(normalized_shape), 0))
    tiny = torch.finfo(x.dtype).eps if eps is None else eps
    return _affine(gates, x * gates.save(lambda: (x.square().mean(dims, keepdim=True) + tiny).rsqrt()), weight, None)


@register_rule(F.group_norm)
def group_norm(
    gates: FrozenGates,
    func: Operation,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Centre and scale by ``stop(1 / sigma)`` within each group."""
    groups = x.reshape(len(x), num_groups, -1)
    per_channel = (-1,) + (1,) * (x.dim() - 2)
    weight = None if weight is None else weight.view(per_channel)
    bias = None if bias is None else bias.view(per_channel)
    return _affine(gates, _standardised(gates, groups, (-1,), eps).reshape(x.shape), weight, bias)


@register_rule(torch.group_norm)
def group_norm_of_torch(
    gates: FrozenGates,
    func: Operation,
    x: Tensor,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """Apply :func:`group_norm` to the arguments of ``torch.group_norm``."""
    return group_norm(gates, func, x, num_groups, weight, bias, eps)


@register_rule(F.batch_norm)
def batch_norm(
    gates: FrozenGates,
    func: Operation,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Apply batch norm, which is affine in eval mode; in train mode an answer would depend on the batch.

    Raises:
        ValueError: the layer uses the batch's own statistics.
    """
    if training:
        raise ValueError("a batch norm uses its batch's statistics (train mode); call model.eval() first")
    if gates.depends(running_mean, running_var, weight, bias):
        per_channel = (1, -1) + (1,) * (x.dim() - 2)
        assert running_mean is not None and running_var is not None  # noqa: PT018
        scale = gates.save(lambda: (running_var + eps).rsqrt()).view(per_channel)
        weight, bias = (None if one is None else one.view(per_channel) for one in (weight, bias))
        return _affine(gates, (x - running_mean.view(per_channel)) * scale, weight, bias)
    if not gates.recording:
        return func(x, running_mean, running_var, weight, bias, training, momentum, eps)
    # the same value with an explicit derivative: x need not be saved, and the backward pass is one product
    assert running_var is not None
    with torch.no_grad():
        value = func(x, running_mean, running_var, weight, bias, training, momentum, eps)
        scale = (running_var + eps).rsqrt_()
        scale = (scale if weight is None else scale.mul_(weight)).to(x.dtype)
    return Gated.apply(x, (value, scale.view((1, -1) + (1,) * (x.dim() - 2))))


@register_rule(torch.batch_norm)
def batch_norm_of_torch(
    gates: FrozenGates,
    func: Operation,
    x: Tensor,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """Apply :func:`batch_norm` to the arguments of ``torch.batch_norm``."""
    return batch_norm(gates, F.batch_norm, x, running_mean, running_var, weight, bias, training, momentum, eps)


@register_rule(torch.instance_norm)
def instance_norm_of_torch(
    gates: FrozenGates,
    func: Operation,
    x: Tensor,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """Apply :func:`instance_norm` to the arguments of ``torch.instance_norm``."""
    more = (use_input_stats, momentum, eps)
    return instance_norm(gates, F.instance_norm, x, running_mean, running_var, weight, bias, *more)


@register_rule(F.instance_norm)
def instance_norm(
    gates: FrozenGates,
    func: Operation,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Centre each channel of each example and scale it by ``stop(1 / sigma)``."""
    if not use_input_stats:
        return func(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return group_norm(gates, func, x, x.shape[1], weight, bias, eps)


@register_rule("native_layer_norm", "native_group_norm", "_native_batch_norm_legit_no_training")
def norm_of_a_decomposed_graph(gates: FrozenGates, func: Operation, x: Tensor, *args: Any) -> tuple[Any, ...]:
    """Return the norm's value, with its statistics as constants."""
    name = find_operation(func).name
    statistics = gates.save(lambda: tuple(func(x, *args))[1:])
    if name == "native_layer_norm":
        return layer_norm(gates, F.layer_norm, x, *args), *statistics
    if name == "native_group_norm":
        weight, bias, _, _, _, groups, eps = args
        return group_norm(gates, F.group_norm, x, groups, weight, bias, eps), *statistics
    weight, bias, mean, variance, momentum, eps = args
    return batch_norm(gates, F.batch_norm, x, mean, variance, weight, bias, False, momentum, eps), *statistics


def _standardised(gates: FrozenGates, x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    scale = gates.save(lambda: (x.var(dims, correction=0, keepdim=True) + eps).rsqrt())
    return (x - x.mean(dims, keepdim=True)) * scale


def _affine(gates: FrozenGates, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else product(gates, torch.mul, x, weight)
    return x if bias is None else x + bias
