"""Masks of a wanted area from one score map, soft enough to have a gradient.

With ``s`` the scores and ``Q_p(s)`` the score above which a share ``p`` of the pixels lies,

    m_p = sigmoid((s - Q_p(s)) / tau)

goes to the map's level set of area ``p``, which is what insertion and deletion
show and hide, as ``tau`` goes to 0. The masks of one map are nested by construction.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The golden ratio's fractional part: its multiples fill [0, 1] evenly, however many are taken.
_GOLDEN = 0.6180339887498949


def quantile_masks(scores: Tensor, shares: tuple[float, ...], tau: float) -> Tensor:
    """``m_p`` for each share: scores ``[N, H, W]`` to masks ``[N, K, H, W]``. ``Q_p`` is held constant."""
    return torch.sigmoid((scores[:, None] - _thresholds(scores, shares)) / tau)


def level_sets(scores: Tensor, shares: tuple[float, ...]) -> Tensor:
    """The same with ``tau`` 0: 1 where the score is above ``Q_p``, ``[N, K, H, W]``."""
    return (scores[:, None] > _thresholds(scores, shares)).to(scores.dtype)


def share_at(step: int) -> float:
    """The area to look at in a step: the midpoints of ever finer bins, evenly spread from the first steps on."""
    return ((step + 0.5) * _GOLDEN) % 1


def standardised(scores: Tensor) -> Tensor:
    """Each map ``[N, ...]`` with mean 0 and standard deviation 1, so that ``tau`` means the same for all; flat is 0."""
    flat = scores.flatten(1)
    deviation, mean = torch.std_mean(flat, dim=1, keepdim=True)
    return ((flat - mean) / torch.where(deviation > 0, deviation, 1)).reshape(scores.shape)


def _thresholds(scores: Tensor, shares: tuple[float, ...]) -> Tensor:
    """``Q_p``, ``[N, K, 1, 1]``, by counting: there are no limits to the size of a map."""
    ordered = scores.detach().flatten(1).sort(descending=True).values
    last = ordered.shape[1] - 1
    places = [min(round(share * ordered.shape[1]), last) for share in shares]
    return ordered[:, places][..., None, None]
