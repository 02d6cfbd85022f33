"""Agreement of attention with attributions: for each token, over frames, patches or words.

After Papi et al., arXiv 2509.18010 (cross-attention in speech-to-text): attention averaged
over layers and heads is compared with input attributions pooled to the attention's resolution.
``I`` tokens (rows) attend to ``T`` positions: the class token of a vision transformer
(``I = 1``), cross-attention of detectors, or anything else of that shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from xai_align._tools.checks import check_choice, check_finite
from xai_align._tools.correlation import kendall, pearson, spearman
from xai_align._tools.counted import counted

Pool = Literal["max", "mean"]
Aggregate = Literal["all", "layer", "head"]
Method = Literal["pearson", "spearman", "kendall"]

_POOLS: dict[str, Callable[..., Tensor]] = {
    "max": functional.adaptive_max_pool2d,
    "mean": functional.adaptive_avg_pool2d,
}
_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pearson": pearson,
    "spearman": spearman,
    "kendall": kendall,
}
#: The axes of attention ``[N, L, heads, I, T]`` that are averaged away.
_AVERAGED: dict[str, tuple[int, ...]] = {"all": (1, 2), "layer": (2,), "head": ()}


def attention_agreement(
    attention: Tensor,
    attributions: Tensor,
    *,
    pool: Pool = "max",
    aggregate: Aggregate = "all",
    method: Method = "pearson",
) -> Tensor:
    """Compute the correlation of attention and attributions over all tokens and positions of an example.

    Each token's row is first standardised to mean 0 and variance 1, on both sides, so that no token
    outweighs the others. A constant row becomes zeros and lowers the value.

    Args:
        attention: ``[N, I, T]``, or ``[N, L, heads, I, T]`` with layers and heads.
        attributions: ``[N, I, T']`` or ``[N, I, T', F]`` with ``F`` features at each position (such as
            frequencies), ``T' >= T``.
        pool: pooling of attributions to ``[N, I, T]``.
        aggregate: "all": layers and heads averaged; "layer": heads averaged; "head": each separately.
        method: the correlation.

    Returns:
        ``[N]``, or ``[N, L]`` by layer, or ``[N, L, heads]`` by head; NaN where all rows on either side are constant.

    Raises:
        ValueError: shapes don't match, numbers are not finite, an option is not known.

    Example::

        attention = torch.rand(2, 5, 10).softmax(-1)  # 5 tokens attend to 10 positions
        attention_agreement(attention, torch.rand(2, 5, 40))  # [2], in [-1, 1]
    """
    maps, pooled = _prepared(attention, attributions, pool, aggregate, method)
    correlate = _METHODS[method]
    values = correlate(_standardised(maps).flatten(-2).flatten(0, -2), _standardised(pooled).flatten(-2).flatten(0, -2))
    return values.view(maps.shape[:-2])


def attention_agreement_per_token(
    attention: Tensor,
    attributions: Tensor,
    *,
    pool: Pool = "max",
    aggregate: Aggregate = "all",
    method: Method = "pearson",
) -> Tensor:
    """Compute :func:`attention_agreement` for each token separately, with a last axis ``I``.

    NaN where a token's row is constant on either side. Arguments and errors are the same.

    Example::

        attention = torch.rand(2, 5, 10).softmax(-1)  # 5 tokens attend to 10 positions
        attention_agreement_per_token(attention, torch.rand(2, 5, 40))  # [2, 5]
    """
    maps, pooled = _prepared(attention, attributions, pool, aggregate, method)
    return _METHODS[method](maps.flatten(0, -2), pooled.flatten(0, -2)).view(maps.shape[:-1])


def context_mixing_gap(
    attention: Tensor,
    attr_input: Tensor,
    attr_encoder: Tensor,
    *,
    pool: Pool = "max",
    aggregate: Aggregate = "all",
    method: Method = "pearson",
) -> Tensor:
    """Compute ``r_encoder - r_input``, the disagreement of attention that is due to context mixing in the encoder.

    An encoder that works position by position has gap 0 only if both attributions remove a position in the same way: if
    the input's is set to a value, the encoder's output must be set to the encoder's output for that value. A zero there
    also removes the position embedding.

    Args:
        attention: as for :func:`attention_agreement`.
        attr_input: attributions to the input.
        attr_encoder: attributions to the output of the encoder, which attention attends to.
        pool: as for :func:`attention_agreement`.
        aggregate: as for :func:`attention_agreement`.
        method: as for :func:`attention_agreement`.

    Raises:
        ValueError: as for :func:`attention_agreement`.

    Example::

        attention = torch.rand(2, 5, 10).softmax(-1)
        context_mixing_gap(attention, attr_input=torch.rand(2, 5, 40), attr_encoder=torch.rand(2, 5, 10))  # [2]
    """
    r_encoder = attention_agreement(attention, attr_encoder, pool=pool, aggregate=aggregate, method=method)
    return r_encoder - attention_agreement(attention, attr_input, pool=pool, aggregate=aggregate, method=method)


def pooled_to(attributions: Tensor, positions: int, *, pool: Pool = "max") -> Tensor:
    """Pool ``[N, I, T']`` or ``[N, I, T', F]`` to ``[N, I, positions]``: over windows of ``T'``, and all of ``F``.

    Raises:
        ValueError: there are fewer than ``positions`` positions, or axes are missing.
    """
    if attributions.dim() not in (3, 4):
        raise ValueError(f"attributions have shape {list(attributions.shape)}; give [N, I, T] or [N, I, T, F]")
    table = attributions[..., None] if attributions.dim() == 3 else attributions
    if table.shape[2] < positions:
        raise ValueError(
            f"attributions have {table.shape[2]} positions and attention {positions}; "
            "give at least as many positions as attention has"
        )
    return _POOLS[pool](table, (positions, 1))[..., 0]


def _prepared(attention: Tensor, attributions: Tensor, pool: str, aggregate: str, method: str) -> tuple[Tensor, Tensor]:
    """Return attention and attributions in one shape ``[N, (L, heads), I, T]``, float64."""
    check_choice("pool", pool, _POOLS)
    check_choice("aggregate", aggregate, _AVERAGED)
    check_choice("method", method, _METHODS)
    check_finite("the attention", attention)
    check_finite("the attributions", attributions)
    if attention.dim() not in (3, 5):
        raise ValueError(
            f"attention has shape {list(attention.shape)}; give [N, I, T], or [N, L, heads, I, T] with layers and heads"
        )
    if attention.dim() == 3 and aggregate != "all":
        raise ValueError(
            f"aggregate is {aggregate!r}, but attention {list(attention.shape)} has no layers and heads; use 'all'"
        )
    if attention.dim() == 5 and _AVERAGED[aggregate]:
        attention = attention.double().mean(_AVERAGED[aggregate])
    maps = attention.detach().double()
    pooled = pooled_to(attributions.detach().double(), maps.shape[-1], pool=pool)  # type: ignore[arg-type]
    if (len(maps), maps.shape[-2]) != pooled.shape[:2]:
        raise ValueError(
            f"attention is of {counted(len(maps), 'example')} with {maps.shape[-2]} tokens, "
            f"attributions of {len(pooled)} with {pooled.shape[1]}; give both for the same examples and tokens"
        )
    pooled = pooled.view(len(pooled), *[1] * (maps.dim() - 3), *pooled.shape[1:]).expand(maps.shape)
    return maps, pooled.to(maps.device)


def _standardised(rows: Tensor) -> Tensor:
    """Standardise each row (last axis) to mean 0 and variance 1; a constant row becomes zeros."""
    varies = rows.amax(-1, keepdim=True) > rows.amin(-1, keepdim=True)
    centred = rows - rows.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True).sqrt()
    return torch.where(varies, centred / spread, 0.0)
