"""Attention without fused kernels in the current thread only; PyTorch's own switch affects the whole process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class PlainAttention(TorchFunctionMode):
    """Mode that computes ``scaled_dot_product_attention`` without fused kernels, which have no second derivative.

    Example::

        with PlainAttention():
            output = network(images)
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute one operation (called by PyTorch, with this mode disabled)."""
        kwargs = kwargs or {}
        return (_plain if func is torch.nn.functional.scaled_dot_product_attention else func)(*args, **kwargs)


def _plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    output, _ = torch._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return output
