"""Attention half and half: evidence flows through the values and, to first order, through the attention weights.

With held attention, a change of the attention weights is not evidence. Here, for scores ``s`` and ``p = softmax(s)``
with its derivative ``J = diag(p) - p p^T``,

    softmax(s) = stop(J) s + stop(p - J s),

so the weights are linear in the scores, and the products ``q k^T`` and ``p v`` are split in half, like all products of
two factors that depend on ``z``. The constant ``p - J s`` belongs to the bias; without it the sum is not the answer.

Source: Achtibat et al. 2024 (AttnLRP, which leaves out the constant).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from xai_align.pinet.gates.attention_rules import attention, multi_head_attention
from xai_align.pinet.gates.frozen_gates import FrozenGates, never
from xai_align.pinet.gates.product_rules import product
from xai_align.pinet.gates.rule_registry import Rule

Operation = Callable[..., Any]


def flowing_attention_rules() -> Mapping[Any, Rule]:
    """Return the rules for softmax and for PyTorch's attention functions."""
    return {
        "softmax": first_order_softmax,
        F.scaled_dot_product_attention: flowing_attention,
        F.multi_head_attention_forward: partial(multi_head_attention, mix=_mix),
    }


class SoftmaxFunction(torch.autograd.Function):
    """Softmax along an axis, computed before, with its derivative."""

    @staticmethod
    def forward(ctx: FunctionCtx, scores: Tensor, found: tuple[Tensor, int]) -> Tensor:
        """Return the computed value."""
        p, ctx.dim = found  # type: ignore[attr-defined]
        ctx.save_for_backward(p)
        return p.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return ``J`` times the gradient; ``J`` is symmetric."""
        (p,) = ctx.saved_tensors
        return _derivative(p, gradient, ctx.dim), None


def first_order_softmax(
    gates: FrozenGates, func: Operation, scores: Tensor, dim: int | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """Return ``stop(J) s + stop(p - J s)``."""
    dim = kwargs.pop("dim", dim)
    axis = scores.dim() - 1 if dim is None else dim
    if gates.recording:
        p = gates.save(lambda: (func(scores, dim, *args, **kwargs), _finite(scores)))[0]
        return SoftmaxFunction.apply(scores, (p, axis))
    p, recorded = gates.save(never)
    return p + _derivative(p, _finite(scores) - recorded, axis)


def flowing_attention(
    gates: FrozenGates,
    func: Operation,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return ``softmax(scale q k^T + mask) v`` by the rules of its parts.

    Attention with dropout or grouped heads is held.
    """
    if dropout_p or enable_gqa:
        return attention(
            gates, func, query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    mask = attn_mask
    if is_causal:
        allowed = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        mask = allowed
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float("-inf"))
    return _mix(gates, query * scale, key, value, [] if mask is None else [mask], False)[0]


def _mix(
    gates: FrozenGates, query: Tensor, key: Tensor, value: Tensor, masks: list[Tensor], need_weights: bool
) -> tuple[Tensor, Tensor]:
    scores = product(gates, torch.matmul, query, key.transpose(-1, -2))
    for mask in masks:
        scores = scores + mask
    pattern = first_order_softmax(gates, torch.softmax, scores, -1) if gates.depends(scores) else scores.softmax(-1)
    return product(gates, torch.matmul, pattern, value), pattern


def _derivative(p: Tensor, v: Tensor, dim: int) -> Tensor:
    """Return ``J v = p * (v - sum(p v))``."""
    return p * (v - (p * v).sum(dim, keepdim=True))


def _finite(scores: Tensor) -> Tensor:
    """Return scores with zeros for those masked out by -inf, whose weight is zero in any case."""
    return scores.masked_fill(scores == float("-inf"), 0)
