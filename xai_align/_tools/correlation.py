"""Row-wise correlations of two tables, with the ranks and counts that they are computed from."""

from __future__ import annotations

import torch
from torch import Tensor


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's r of each row of ``[N, P]`` tables: ``[N]``, NaN where a row is constant."""
    a, b = a.double(), b.double()
    defined = _varies(a) & _varies(b)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    r = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return torch.where(defined, r.clamp(-1, 1), torch.nan)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's rho of each row of ``[N, P]`` tables, ties sharing the mean of their ranks: ``[N]``."""
    return pearson(average_ranks(a), average_ranks(b))


def kendall(a: Tensor, b: Tensor) -> Tensor:
    """Return Kendall's tau-b of each row of ``[N, P]`` tables: ``[N]``, NaN where a row is constant.

    ``tau_b = (C - D) / sqrt((n0 - n_a) (n0 - n_b))`` with ``C`` pairs in the same order,
    ``D`` in the opposite one, and ``n_a`` of all ``n0`` pairs tied in ``a``, in
    ``O(P log^2 P)``.
    """
    return torch.tensor([_tau_b(x, y) for x, y in zip(a, b, strict=True)], dtype=torch.float64, device=a.device)


def average_ranks(values: Tensor) -> Tensor:
    """Return ranks from 1 in each row of ``[N, P]``, smallest first; ties share the mean of their ranks."""
    ordered = values.sort(dim=1).values
    before = torch.searchsorted(ordered, values.contiguous())
    up_to = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (before + up_to + 1).double() / 2


def dense_ranks(values: Tensor) -> Tensor:
    """Return ranks from 0 in each row of ``[N, P]``, smallest first; ties share a rank, and no rank is skipped."""
    ordered = values.sort(dim=1).values
    steps = (ordered.diff(dim=1) > 0).long().cumsum(1)
    ranks = torch.cat([steps.new_zeros(len(values), 1), steps], dim=1)
    return ranks.gather(1, torch.searchsorted(ordered, values.contiguous()))


def inversions(values: Tensor) -> int:
    """Count the inversions of a vector ``[P]``: pairs whose earlier entry is larger than the later one.

    Counted by merge sort: adjacent sorted runs are compared and merged until one is left.
    """
    length = 1 << max(len(values) - 1, 0).bit_length()
    stretches = torch.full((length,), torch.inf, dtype=torch.float64, device=values.device)
    stretches[: len(values)] = values
    count, size = 0, 1
    while size < length:
        left, right = stretches.view(-1, 2, size).unbind(1)
        not_larger = torch.searchsorted(left.contiguous(), right.contiguous(), right=True)
        count += int((size - not_larger).sum())
        stretches = stretches.view(-1, 2 * size).sort(dim=1).values.flatten()
        size *= 2
    return count


def pairs(count: int) -> int:
    """Return the number of pairs of ``count`` items."""
    return count * (count - 1) // 2


def _tau_b(a: Tensor, b: Tensor) -> float:
    ids_a, ids_b = torch.unique(a, return_inverse=True)[1], torch.unique(b, return_inverse=True)[1]
    both = ids_a * len(a) + ids_b  # one number for each combination, ordered by a, then by b
    n0, n_a, n_b = pairs(len(a)), _tied(ids_a), _tied(ids_b)
    if n0 in (n_a, n_b):
        return float("nan")
    discordant = inversions(ids_b[both.argsort()])
    concordant = n0 - n_a - n_b + _tied(both) - discordant
    return float((concordant - discordant) / ((n0 - n_a) ** 0.5 * (n0 - n_b) ** 0.5))


def _tied(values: Tensor) -> int:
    counts = torch.unique(values, return_counts=True)[1]
    return int((counts * (counts - 1)).sum()) // 2


def _varies(values: Tensor) -> Tensor:
    return values.amax(1) > values.amin(1)
