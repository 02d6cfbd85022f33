"""Agreement of two explanations of the same example, from a method, a person or a language model.

The measures are those of Krishna et al. 2022 ("The disagreement problem"), as OpenXAI
computes them. Features are ranked by the magnitude of their importance, ``|e|``, with a stable
sort: among ties, the earlier feature comes first. Coarsely rounded scores tie often, and the ranking
then depends on the order of the features; see :func:`xai_align.perturbation.ranking.tie_rate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xai_align._tools.checks import check_choice, check_finite
from xai_align._tools.correlation import dense_ranks, inversions, pairs, pearson
from xai_align._tools.counted import counted
from xai_align.perturbation.ranking import descending_ranks


def agreement(
    a: Any,
    b: Any,
    *,
    k: int | float,
    metrics: Sequence[str] = ("fa", "ra", "sa", "sra", "pra", "rc", "iou"),
    feature_mask: Any = None,
) -> dict[str, Tensor]:
    """Compute several measures of agreement, each ``[N]``, by name.

    Args:
        a: importances ``[N, ...]``, a tensor, an array or nested lists. With four axes ``[N, C, H, W]`` the
            channels are summed: pixels are the features.
        b: importances of the same features.
        k: number of top features; a float is a share of all features, in (0, 1].
        metrics: some of fa, ra, sa, sra, pra, rc, iou.
        feature_mask: integer feature label of each entry, for one example, ``[H, W]`` (or ``[1, ...]``, or
            ``[N, ...]``). Importances of one feature are summed. An ``a`` or ``b`` that holds one number
            for each feature, by ascending label, is used as it is.

    Raises:
        TypeError: ``k`` is not a number, ``feature_mask`` is not of integers.
        ValueError: shapes don't match, importances are not finite, ``k`` is out of range, a measure is not known.

    Example::

        scores = agreement(images, images.abs(), k=0.1)  # of the 10 % most important pixels
        scores["fa"]  # [2], in [0, 1]
    """
    for name in metrics:
        check_choice("a measure of agreement", name, MEASURES)
    rankings = _rankings(a, b, k, feature_mask)
    return {name: torch.tensor([MEASURES[name](one) for one in rankings], dtype=torch.float64) for name in metrics}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Importance of cells of one image, from outside.

    Attributes:
        values: one number for each cell, by ascending label.
        labels: the cell of each pixel, ``[H, W]``, integers.

    Example::

        Scored(values=torch.tensor([1.0, 0.0]), labels=torch.arange(8).expand(8, 8) // 4)
    """

    values: Tensor
    labels: Tensor


def agreement_with_scores(attributions: Tensor, scores: Sequence[Scored], *, measure: str, share: float) -> Tensor:
    """Return one measure of agreement of each map with scores from outside, ``[N]``.

    The maps are summed over the cells of the scores.

    Args:
        attributions: ``[N, C, H, W]`` or ``[N, H, W]``.
        scores: of each image.
        measure: a name from :data:`MEASURES`.
        share: the top features are this share of an image's cells.

    Raises:
        ValueError: as for :func:`agreement`.

    Example::

        left = Scored(values=torch.tensor([1.0, 0.0]), labels=torch.arange(32).expand(32, 32) // 16)
        agreement_with_scores(images, [left, left], measure="fa", share=0.5)  # [2]
    """
    if len(scores) != len(attributions):
        raise ValueError(
            f"{counted(len(attributions), 'map')} and scores of {counted(len(scores), 'image')}; give one for each map"
        )
    found = [
        agreement(
            attributions[i : i + 1], one.values[None], k=share, metrics=(measure,), feature_mask=one.labels[None]
        )[measure]
        for i, one in enumerate(scores)
    ]
    return torch.cat(found)


@dataclass(frozen=True)
class _Rankings:
    """Two importance vectors ``[P]`` of one example, and the rank of each feature in both (0: the largest)."""

    a: Tensor
    b: Tensor
    rank_a: Tensor
    rank_b: Tensor
    k: int

    @property
    def in_both(self) -> Tensor:
        """Features in the top k of both: ``[P]``, bool."""
        return (self.rank_a < self.k) & (self.rank_b < self.k)

    @property
    def same_rank(self) -> Tensor:
        """Features with the same rank in both, among the first k: ``[P]``, bool."""
        return (self.rank_a == self.rank_b) & (self.rank_a < self.k)

    @property
    def same_sign(self) -> Tensor:
        """Features with the same sign (-, 0, +) in both: ``[P]``, bool."""
        return self.a.sign() == self.b.sign()


def _feature_agreement(r: _Rankings) -> float:
    """Return FA: the share of the top k features that both have in common."""
    return int(r.in_both.sum()) / r.k


def _rank_agreement(r: _Rankings) -> float:
    """Return RA: the share of the first k ranks with the same feature in both."""
    return int(r.same_rank.sum()) / r.k


def _sign_agreement(r: _Rankings) -> float:
    """Return SA: FA that counts only features with the same sign (-, 0, +)."""
    return int((r.in_both & r.same_sign).sum()) / r.k


def _signed_rank_agreement(r: _Rankings) -> float:
    """Return SRA: RA that counts only features with the same sign (-, 0, +)."""
    return int((r.same_rank & r.same_sign).sum()) / r.k


def _top_k_overlap(r: _Rankings) -> float:
    """Return the IoU: intersection over union of the two sets of top k features."""
    shared = int(r.in_both.sum())
    return shared / (2 * r.k - shared)


def _pairwise_rank_agreement(r: _Rankings) -> float:
    """Return PRA: the share of feature pairs that both rank in the same order; NaN for a single feature."""
    all_pairs = pairs(len(r.rank_a))
    # with features in the order of a, pairs in the opposite order in b are the inversions of b's ranks
    return 1 - inversions(r.rank_b[r.rank_a.argsort()]) / all_pairs if all_pairs else float("nan")


def _rank_correlation(r: _Rankings) -> float:
    """Return RC: Pearson's r of the dense ranks of ``|e|`` (ties share a rank); NaN where all features tie."""
    return float(pearson(dense_ranks(r.a.abs()[None]), dense_ranks(r.b.abs()[None])))


#: Measures by their short names in tables.
MEASURES: dict[str, Callable[[_Rankings], float]] = {
    "fa": _feature_agreement,
    "ra": _rank_agreement,
    "sa": _sign_agreement,
    "sra": _signed_rank_agreement,
    "pra": _pairwise_rank_agreement,
    "rc": _rank_correlation,
    "iou": _top_k_overlap,
}


def _rankings(a: Any, b: Any, k: int | float, feature_mask: Any) -> list[_Rankings]:
    vectors = zip(*_vectors(_finite(a), _finite(b), feature_mask), strict=True)
    return [_Rankings(x, y, _ranks(x), _ranks(y), _top(k, len(x))) for x, y in vectors]


def _ranks(importances: Tensor) -> Tensor:
    return descending_ranks(importances.abs()[None])[0]


def _top(k: int | float, features: int) -> int:
    """Return ``k`` as a number of features."""
    if isinstance(k, bool) or not isinstance(k, int | float | np.integer | np.floating):
        raise TypeError(f"k is {k!r}; give a number of features, or a share of them as a float")
    if isinstance(k, float | np.floating):
        if not 0 < k <= 1:
            raise ValueError(f"k is the share {k}; give a float in (0, 1], or an int for a number of features")
        return max(1, round(float(k) * features))
    if not 1 <= k <= features:
        raise ValueError(f"k is {k}, there are {features} features; give 1 … {features}")
    return int(k)


def _finite(importances: Any) -> Tensor:
    """Return importances of any type as a float64 tensor ``[N, ...]`` on the CPU, channels summed.

    Raises:
        ValueError: they hold NaN or infinity, or have fewer than two axes.
    """
    given = importances if isinstance(importances, Tensor) else torch.from_numpy(np.asarray(importances, np.float64))
    values = given.detach().to("cpu", torch.float64)
    if values.dim() < 2 or not values.numel():
        raise ValueError(f"importances have shape {list(values.shape)}; give [N, ...], one row for each example")
    check_finite("the importances", values)
    return values.sum(1) if values.dim() == 4 else values


def _vectors(a: Tensor, b: Tensor, feature_mask: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Return one vector ``[P]`` for each example, from both."""
    if len(a) != len(b):
        raise ValueError(
            f"one explanation is of {len(a)} examples, the other of {len(b)}; give both for the same examples"
        )
    if feature_mask is not None:
        masks = _masks(feature_mask, a if a.dim() >= b.dim() else b)
        rows_a = [_by_feature(row, mask) for row, mask in zip(a, masks, strict=True)]
        rows_b = [_by_feature(row, mask) for row, mask in zip(b, masks, strict=True)]
        return rows_a, rows_b
    if a.shape != b.shape:
        raise ValueError(
            f"explanations of shape {list(a.shape)} and {list(b.shape)} are not about the same features; "
            "bring them to one size, or give feature_mask"
        )
    return list(a.flatten(1)), list(b.flatten(1))


def _masks(feature_mask: Any, like: Tensor) -> Tensor:
    """Return one mask for each example, broadcast to the shape of ``like``."""
    mask = feature_mask if isinstance(feature_mask, Tensor) else torch.as_tensor(np.asarray(feature_mask))
    if mask.is_floating_point() or mask.is_complex() or mask.dtype == torch.bool:
        raise TypeError(f"feature_mask is of {mask.dtype}; give integers, the number of the feature at each entry")
    mask = mask.cpu()
    if mask.dim() == 4 and like.dim() == 3:
        if not bool((mask == mask[:, :1]).all()):
            raise ValueError("feature_mask differs between channels; a position with all its channels is one feature")
        mask = mask[:, 0]
    try:
        return mask.expand(like.shape)
    except RuntimeError:
        raise ValueError(
            f"feature_mask of shape {list(mask.shape)} does not fit importances of shape {list(like.shape)}; "
            "give one label per entry"
        ) from None


def _by_feature(importances: Tensor, mask: Tensor) -> Tensor:
    """Return the importances of one example, summed for each feature."""
    numbers, which = torch.unique(mask, return_inverse=True)
    if importances.shape == mask.shape:
        return importances.new_zeros(len(numbers)).index_add(0, which.flatten(), importances.flatten())
    if importances.shape == (len(numbers),):
        return importances
    raise ValueError(
        f"importances of shape {list(importances.shape)} are neither one for each entry of the mask "
        f"{list(mask.shape)} nor one for each of its {len(numbers)} features"
    )
