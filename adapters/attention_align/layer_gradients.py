"""Gradients of an answer with respect to attention matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gradients(y: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return ``dy/dA`` for each matrix, zeros where the answer does not depend on it; the graph is kept.

    Raises:
        ValueError: the answer depends on none of them.
    """
    found: Sequence[Tensor | None] = [None]
    if y.requires_grad:
        found = torch.autograd.grad(y, list(weights), retain_graph=True, allow_unused=True)
    if all(one is None for one in found):
        raise ValueError(
            "the answer has no gradient with respect to the attention: the network detaches it, or computes it without "
            "gradients (torch.no_grad)"
        )
    return [torch.zeros_like(A) if one is None else one for A, one in zip(weights, found, strict=True)]
