"""Gini index of attributions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def gini(
    forward_func: Any,
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    *,
    target: Any = None,
) -> Tensor:
    """Return the Gini index of the absolute attributions, one value per example.

    All tensors of an example are taken together. The index of a map
    of zeros is 0. The model and the inputs are not used; all metrics are
    called in the same way.
    """
    maps = attributions if isinstance(attributions, tuple) else (attributions,)
    shares = torch.cat([one.detach().flatten(1).abs().float() for one in maps], dim=1).sort(dim=1).values
    count = shares.shape[1]
    # Of n sorted shares the i-th is weighted with its rank, counted from the middle.
    ranks = 2 * torch.arange(1, count + 1, device=shares.device, dtype=shares.dtype) - count - 1
    total = shares.sum(dim=1)
    return torch.where(total > 0, (shares * ranks).sum(dim=1) / (count * total.clamp_min(torch.finfo().tiny)), 0.0)
