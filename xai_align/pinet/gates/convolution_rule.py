"""Convolution with constant weights: linear, with a backward pass that needs the weights but not the input.

Autograd saves the input of every convolution in case the weights need a
gradient. Here they never do, and saved inputs would be most of a readout's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.product_rules import product
from xai_align.pinet.gates.rule_registry import register_rule

Operation = Callable[..., Any]
CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)


class Geometry(NamedTuple):
    """Stride, padding, dilation and groups of a convolution, one number per dimension."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    @classmethod
    def of(cls, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Geometry:
        """Return the geometry for PyTorch's arguments, except padding given as a string."""
        stride, padding, dilation = (each_way(value, weight.dim() - 2) for value in (stride, padding, dilation))
        return cls(stride, padding, dilation, groups)


def transposed_convolution(gradient: Tensor, weight: Tensor, *, shape: Sequence[int], geometry: Geometry) -> Tensor:
    """Return the gradient at a convolution's input ``[N, C, ...]`` of this shape from that at its output."""
    stride, padding, dilation, groups = geometry
    shape_only = gradient.new_empty(1).expand(shape)
    no_output_padding = [0] * len(stride)
    back, _, _ = torch.ops.aten.convolution_backward(
        gradient, shape_only, weight, None, stride, padding, dilation, False, no_output_padding, groups,
        (True, False, False),
    )  # fmt: skip
    return back


class FrozenConvolution(torch.autograd.Function):
    """Convolution that saves only the shape of its input."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, func: Operation, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        """Return the convolution's own value."""
        ctx.save_for_backward(weight)
        ctx.shape, ctx.geometry = x.shape, geometry  # type: ignore[attr-defined]
        return func(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the transposed convolution of the gradient."""
        (weight,) = ctx.saved_tensors
        back = transposed_convolution(gradient, weight, shape=ctx.shape, geometry=ctx.geometry)
        return back, None, None, None, None


@register_rule(*CONVOLUTIONS)
def convolution(
    gates: FrozenGates,
    func: Operation,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Run a convolution, linear with constant weights, or as a product if the weights depend on ``z``."""
    if gates.depends(weight, bias):
        return product(gates, func, input, weight, bias, stride, padding, dilation, groups)
    words = isinstance(padding, str)
    if not gates.recording or words or input.dim() != weight.dim() or torch.is_autocast_enabled(input.device.type):
        return func(input, weight, bias, stride, padding, dilation, groups)
    return FrozenConvolution.apply(input, func, weight, bias, Geometry.of(weight, stride, padding, dilation, groups))


def each_way(value: Any, dimensions: int) -> list[int]:
    """Return one number per dimension."""
    return [value] * dimensions if isinstance(value, int) else list(value) * (dimensions if len(value) == 1 else 1)
