"""Differentiable masks of given areas from one score map.

With ``s`` the scores and ``Q_p(s)`` the score above which a share ``p`` of the pixels lies,

    m_p = sigmoid((s - Q_p(s)) / tau)

converges to the map's level set of area ``p``, which insertion shows and deletion
hides, as ``tau`` goes to 0. The masks of one map are nested by construction.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The golden ratio's fractional part: its multiples fill [0, 1] evenly, however many are taken.
_GOLDEN = 0.6180339887498949


def quantile_masks(scores: Tensor, shares: tuple[float, ...], tau: float) -> Tensor:
    """Return ``m_p`` for each share: scores ``[N, H, W]`` to masks ``[N, K, H, W]``. ``Q_p`` has no gradient."""
    return torch.sigmoid((scores[:, None] - _thresholds(scores, shares)) / tau)


def level_sets(scores: Tensor, shares: tuple[float, ...]) -> Tensor:
    """Return the masks for ``tau`` 0: 1 where the score is above ``Q_p``, ``[N, K, H, W]``."""
    return (scores[:, None] > _thresholds(scores, shares)).to(scores.dtype)


def share_at(step: int) -> float:
    """Return the area of a step, from a low-discrepancy sequence that covers (0, 1) evenly."""
    return ((step + 0.5) * _GOLDEN) % 1


def standardised(scores: Tensor) -> Tensor:
    """Scale each map ``[N, ...]`` to mean 0 and standard deviation 1, for a comparable ``tau``; a constant gives 0."""
    flat = scores.flatten(1)
    deviation, mean = torch.std_mean(flat, dim=1, keepdim=True)
    return ((flat - mean) / torch.where(deviation > 0, deviation, 1)).reshape(scores.shape)


def _thresholds(scores: Tensor, shares: tuple[float, ...]) -> Tensor:
    """Return ``Q_p``, ``[N, K, 1, 1]``, by sorting, which works for maps of any size."""
    ordered = scores.detach().flatten(1).sort(descending=True).values
    last = ordered.shape[1] - 1
    places = [min(round(share * ordered.shape[1]), last) for share in shares]
    return ordered[:, places][..., None, None]
