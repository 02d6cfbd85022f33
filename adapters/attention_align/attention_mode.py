"""Attention weights of a running network, whichever of PyTorch's functions computes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from xai_align.adapter_tools import with_globals

#: Spellings of softmax; ``nn.Softmax`` calls one of them.
SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax, torch.special.softmax)
_PARAMETERS = inspect.signature(F.multi_head_attention_forward)


class AttentionMode(TorchFunctionMode):
    """Mode that computes attention as ``softmax(scale q k^T + mask) v`` and passes on the weights.

    It intercepts ``scaled_dot_product_attention``, ``multi_head_attention_forward`` (``nn.MultiheadAttention``, whose
    fused kernel for eval mode PyTorch does not take under a mode), and every softmax over the last of four axes.

    Args:
        replace: called with the weights ``[N, heads, queries, keys]``; the network continues with its result.

    Example::

        with AttentionMode(lambda weights: weights):
            logits = model(images)  # as without, up to rounding
    """

    def __init__(self, replace: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.replace = replace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute one operation (called by PyTorch, with this mode disabled)."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in SOFTMAX and result.dim() == 4:
            axis = args[1] if len(args) > 1 else kwargs.get("dim")
            if axis in (-1, 3):
                return self.replace(result).clone()  # the network may write into it
        return result

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if dropout_p > 0:
            raise ValueError(f"the attention drops weights at random (dropout_p={dropout_p}); call model.eval() first")
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        scores = query @ key.transpose(-1, -2) * scale
        if is_causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        if attn_mask is not None:
            boolean = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, float("-inf")) if boolean else scores + attn_mask
        weights = scores.softmax(-1)
        if attn_mask is not None:  # a query that may attend to nothing is 0 in PyTorch
            weights = weights.masked_fill((scores == float("-inf")).all(-1, keepdim=True), 0)
        return self.replace(weights) @ value

    def _multi_head(self, *args: Any, **kwargs: Any) -> Any:
        """Run PyTorch's own function, with all of its options, on the two functions above."""
        given = _PARAMETERS.bind(*args, **kwargs)
        heads = int(given.arguments["num_heads"])

        def softmax(scores: Tensor, dim: int) -> Tensor:  # of [N * heads, queries, keys], where weights are returned
            return self.replace(scores.softmax(dim).unflatten(0, (-1, heads))).flatten(0, 1)

        run = with_globals(
            F.multi_head_attention_forward,
            has_torch_function=lambda tensors: False,
            scaled_dot_product_attention=self._attend,
            softmax=softmax,
        )
        return run(*args, **kwargs)
