"""Rules for attention: the weights are held, the values flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.gate_rules import stop
from xai_align.pinet.gates.rule_registry import register_rule

Operation = Callable[..., Any]
#: ``mix(gates, query, key, value, masks, need_weights)`` returns the mixed values and the attention weights.
Mix = Callable[..., tuple[Tensor, Tensor]]


@register_rule("scaled_dot_product_attention")
def attention(
    gates: FrozenGates,
    func: Operation,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Return ``sdpa(stop(q), stop(k), v, stop(mask))``; the mask may depend on the query."""
    if not gates.depends(value):
        return stop(gates, func, query, key, value, attn_mask, *args, **kwargs)
    query, key = gates.save(lambda: (query, key))
    if gates.depends(attn_mask):
        attn_mask = gates.save(lambda: attn_mask)
    if gates.recording and not args and not kwargs.get("enable_gqa") and not kwargs.get("dropout_p"):
        return HeldAttention.apply(value, (func, query, key, attn_mask, kwargs))
    return func(query, key, value, attn_mask, *args, **kwargs)


@register_rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math")
def attention_of_a_decomposed_graph(
    gates: FrozenGates, func: Operation, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> tuple[Any, ...]:
    """Apply :func:`attention`; the additional outputs are constant."""
    more = gates.save(lambda: tuple(func(query, key, value, *args, **kwargs))[1:])
    query, key, args, kwargs = gates.save(lambda: (query, key, args, kwargs))
    out, *_ = func(query, key, value, *args, **kwargs)
    return out, *more


class HeldAttention(torch.autograd.Function):
    """Fused kernel's ``A v``. Only the values flow, so the backward pass is ``A^T`` alone, in blocks of queries."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, held: tuple[Operation, Tensor, Tensor, Tensor | None, dict[str, Any]]
    ) -> Tensor:
        """Return the fused kernel's value."""
        func, query, key, mask, ctx.options = held
        ctx.save_for_backward(query, key, mask)
        return func(query, key, value, mask, **ctx.options)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return ``A^T g`` with ``A = softmax(scale q k^T + mask)``."""
        query, key, mask = ctx.saved_tensors
        scale = ctx.options.get("scale")
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        queries, keys = query.shape[-2], key.shape[-2]
        block = max(1, _SCORES_AT_A_TIME // max(1, keys * (query.numel() // max(1, queries * query.shape[-1]))))
        total: Tensor | None = None
        for start in range(0, queries, block):
            rows = slice(start, start + block)
            scores = (query[..., rows, :] * scale) @ key.transpose(-1, -2)
            if ctx.options.get("is_causal"):
                places = torch.arange(queries, device=query.device)[rows, None]
                scores.masked_fill_(torch.arange(keys, device=query.device) > places, float("-inf"))
            if mask is not None:
                part = mask[..., rows, :] if mask.dim() > 1 and mask.shape[-2] == queries else mask
                scores = scores.masked_fill_(~part, float("-inf")) if part.dtype == torch.bool else scores + part
            weights = scores.softmax(-1) if mask is None else _weights(scores)
            found = weights.transpose(-1, -2) @ gradient[..., rows, :]
            total = found if total is None else total.add_(found)
        assert total is not None
        return total, None


def _weights(scores: Tensor) -> Tensor:
    """Return the softmax of scores, with zeros for a query that may attend to nothing, as fused kernels do."""
    return scores.softmax(-1).masked_fill_((scores == float("-inf")).all(-1, keepdim=True), 0)


#: Number of attention scores held at once in the backward pass: 64 MiB in float32.
_SCORES_AT_A_TIME = 2**24


@register_rule("multi_head_attention_forward")
def multi_head_attention(
    gates: FrozenGates,
    func: Operation,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool,
    key_padding_mask: Tensor | None,
    need_weights: bool,
    attn_mask: Tensor | None,
    use_separate_proj_weight: bool,
    q_proj_weight: Tensor | None,
    k_proj_weight: Tensor | None,
    v_proj_weight: Tensor | None,
    static_k: Tensor | None,
    static_v: Tensor | None,
    average_attn_weights: bool,
    is_causal: bool,
    *,
    mix: Mix | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return ``out_proj(stop(A) v)`` with the attention ``A`` of ``torch.nn.MultiheadAttention``.

    Args:
        mix: another function in place of ``stop(A) v``.

    Raises:
        NotImplementedError: the module uses an option that changes keys or values.
    """
    extras = (bias_k, bias_v, static_k, static_v, add_zero_attn or None)
    if any(extra is not None for extra in extras) or (training and dropout_p > 0):
        raise NotImplementedError(
            "nn.MultiheadAttention is read out without bias_k, bias_v, static_k, static_v, add_zero_attn and dropout; "
            "read out at a later layer"
        )
    separate: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    weights: Any = in_proj_weight.chunk(3) if in_proj_weight is not None else separate
    biases: Any = in_proj_bias.chunk(3) if in_proj_bias is not None else (None, None, None)
    batched = query.dim() == 3
    parts = [x if batched else x.unsqueeze(1) for x in (query, key, value)]
    q, k, v = (_heads(gates.run(F.linear, x, w, b), num_heads) for x, w, b in zip(parts, weights, biases, strict=True))
    found = (_as_mask(attn_mask, q, num_heads), _as_mask(_of_keys(key_padding_mask), q, num_heads))
    masks = [mask for mask in found if mask is not None]
    value, pattern = (mix or _held)(gates, q / q.shape[-1] ** 0.5, k, v, masks, need_weights)
    mixed = value.permute(2, 0, 1, 3).flatten(2)  # [L, N, E]
    out = gates.run(F.linear, mixed, out_proj_weight, out_proj_bias)
    shown = (pattern.mean(1) if average_attn_weights else pattern) if need_weights else None
    if batched:
        return out, shown
    return out.squeeze(1), None if shown is None else shown.squeeze(0)


def _held(
    gates: FrozenGates, query: Tensor, key: Tensor, value: Tensor, masks: list[Tensor], need_weights: bool
) -> tuple[Tensor, Tensor]:
    """Return ``stop(A) v`` and ``A``."""
    scores = query @ key.transpose(-1, -2)
    for mask in masks:
        scores = scores + mask
    # with need_weights, torch takes no fused kernel, and a query that may attend to nothing is NaN
    pattern = gates.save(lambda: scores.softmax(-1) if need_weights else _weights(scores))
    gates.stops("multi_head_attention_forward")
    return pattern @ value, pattern


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """Reshape ``[L, N, E]`` to ``[N, heads, L, E / heads]``."""
    return x.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)


def _of_keys(key_padding_mask: Tensor | None) -> Tensor | None:
    if key_padding_mask is None:
        return None
    return key_padding_mask[:, None, None] if key_padding_mask.dim() == 2 else key_padding_mask[None, None, None]


def _as_mask(mask: Tensor | None, scores: Tensor, num_heads: int) -> Tensor | None:
    """Return the term added to the scores; True in a mask excludes a position."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, float("-inf"))
    return mask.unflatten(0, (-1, num_heads)) if mask.dim() == 3 else mask
