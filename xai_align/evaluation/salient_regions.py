"""Search for the regions of a map to be described in a sentence, as in saliency map verbalization.

Feldhus et al., Saliency Map Verbalization, NLRSE at ACL 2023, arXiv 2210.07222, section 3, with regions of a picture in
place of words: the regions are cells, superpixels or named parts, with ``a_i`` the sum of the map over region i; the
search keeps what exceeds the mean of the top 40 % of all values and joins neighbours, and a find ``T`` is
ordered by its coverage ``Cov(T) = sum_{i in T} a_i / sum_i max(a_i, 0)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xai_align._tools.checks import check_finite
from xai_align.perturbation.spec import grid_mask

#: Cells on a side of the grid.
GRID = 8
#: Share of all regions, those with the largest values, whose mean is the threshold; negative values count as zero.
TOP = 0.4
#: A region stands out if it has this share of the evidence, and so many times its share of the picture.
STANDS_OUT, DENSITY = 0.2, 1.5


@dataclass(frozen=True, kw_only=True)
class SalientRegion:
    """Connected regions with evidence for the answer, or against it.

    Attributes:
        labels: the regions.
        mask: their pixels, ``[H, W]``, bool.
        total: sum of the map over them; below zero for evidence against.
        coverage: ``Cov``: the total as a share of all regions of its sign.
        area: share of the map's pixels.

    Example::

        (found,) = salient_regions(torch.eye(8)[:, :1].expand(8, 8), grid_labels(8, 8))
        found.stands_out  # True: all of it in an eighth of the map
    """

    labels: tuple[int, ...]
    mask: Tensor
    total: float
    coverage: float
    area: float

    @property
    def stands_out(self) -> bool:
        """True if the evidence is concentrated here."""
        return self.coverage >= STANDS_OUT and self.coverage >= DENSITY * self.area


def grid_labels(height: int, width: int, cells: int = GRID) -> Tensor:
    """Return the label of each pixel's cell, ``[H, W]``, in a grid of at most ``cells`` x ``cells``.

    Example::

        grid_labels(4, 4, cells=2)  # [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    """
    return grid_mask((height, width), (min(cells, height), min(cells, width)))


def salient_regions(
    values: Tensor, labels: Tensor, *, joined: bool = True, max_regions: int = 3, min_coverage: float = 0.05
) -> list[SalientRegion]:
    """Return the regions with the largest coverage of the evidence for the answer, largest first.

    For the evidence against it, give ``-values``, and change the sign of the totals.

    Args:
        values: map ``[H, W]``.
        labels: label of each pixel's region, ``[H, W]``, integers; pixels below 0 belong to none.
        joined: merge neighbours above the threshold; otherwise each label is a region of its own, without a threshold.
        max_regions: largest number of regions returned.
        min_coverage: regions that cover less are left out.

    Raises:
        ValueError: shapes differ, labels are not integers, or the map is not finite.

    Example::

        values = torch.zeros(6, 6)
        values[:2, :2] = 1.0
        (region,) = salient_regions(values, grid_labels(6, 6, cells=6))
        region.coverage, region.area  # 1.0, 4 / 36
    """
    check_finite("the map", values[None])
    if values.dim() != 2 or labels.shape != values.shape or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"a map [H, W] needs an integer label for each pixel; got {list(values.shape)} and {list(labels.shape)} "
            f"of {labels.dtype}"
        )
    labels = labels.cpu().long()
    inside = labels >= 0
    known, number = labels[inside].unique(return_inverse=True)
    a = region_sums(values, labels)
    size = torch.bincount(number, minlength=len(known))
    mass = float(a.clamp(min=0).sum())
    if mass <= 0:
        return []
    place = torch.full_like(labels, -1)
    place[inside] = number
    groups = _connected(place, a / size) if joined else [[index] for index in range(len(known)) if a[index] > 0]
    totals = sorted(((float(a[group].sum()), group) for group in groups), key=lambda pair: -pair[0])
    found = []
    for total, group in [(total, group) for total, group in totals if total / mass >= min_coverage][:max_regions]:
        mask = torch.isin(place, torch.tensor(group))
        region = SalientRegion(
            labels=tuple(known[group].tolist()),
            mask=mask,
            total=total,
            coverage=total / mass,
            area=float(mask.double().mean()),
        )
        found.append(region)
    return found


def region_sums(values: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of a map ``[H, W]`` over each region, by ascending label, in float64.

    Example::

        region_sums(torch.ones(4, 4), grid_labels(4, 4, cells=2))  # [4, 4, 4, 4]
    """
    inside = labels >= 0
    known, number = labels[inside].unique(return_inverse=True)
    sums = torch.zeros(len(known), dtype=torch.float64)
    return sums.index_add_(0, number.cpu(), values.detach().cpu().double()[inside.cpu()])


def _connected(place: Tensor, density: Tensor) -> Iterator[list[int]]:
    """Yield the connected groups of regions whose mean value exceeds the threshold."""
    threshold = density.clamp(min=0).sort(descending=True).values[: max(1, round(TOP * len(density)))].mean()
    # of several equal regions, rounding of the mean must not hide all
    above = set(torch.nonzero(density >= threshold * (1 - 1e-9)).flatten().tolist())
    neighbours = _neighbours(place)
    while above:
        group, front = [], [above.pop()]
        while front:
            one = front.pop()
            group.append(one)
            near = neighbours.get(one, set()) & above
            above -= near
            front.extend(sorted(near))
        yield sorted(group)


def _neighbours(place: Tensor) -> dict[int, set[int]]:
    """Return the regions that share a border with each."""
    found: dict[int, set[int]] = {}
    for one, other in ((place[:, :-1], place[:, 1:]), (place[:-1], place[1:])):
        pairs = torch.stack([one.flatten(), other.flatten()], 1)
        for i, j in pairs[(pairs[:, 0] != pairs[:, 1]) & (pairs >= 0).all(1)].unique(dim=0).tolist():
            found.setdefault(i, set()).add(j)
            found.setdefault(j, set()).add(i)
    return found


def coverage_at_k(attributions: Tensor, mentioned: Tensor | Sequence[Tensor], *, k: int) -> Tensor:
    """Return the share of the positive evidence in the mentioned ones of the ``k`` most positive features, ``[N]``.

    ``sum_{i in top k, i mentioned, a_i > 0} a_i / sum_i max(a_i, 0)``: a text that mentions the top features is
    faithful to the map. NaN without positive evidence.

    Args:
        attributions: ``[N, P]``, one number for each feature.
        mentioned: ``[N, P]``, bool.
        k: number of features; ties are ranked by position.

    Raises:
        ValueError: shapes differ, or ``k`` is not positive.

    Example::

        a = torch.tensor([[4.0, 3.0, 2.0, 1.0, -5.0]])
        coverage_at_k(a, a > 2.5, k=3)  # (4 + 3) / 10
    """
    told = mentioned if isinstance(mentioned, Tensor) else torch.stack(list(mentioned))
    if attributions.dim() != 2 or told.shape != attributions.shape:
        raise ValueError(f"give both as [N, features]; got {list(attributions.shape)} and {list(told.shape)}")
    if k < 1:
        raise ValueError(f"k is a number of features, at least 1; got {k}")
    a = attributions.double().clamp(min=0)
    top = a.argsort(dim=1, descending=True, stable=True)[:, :k]
    held = (a * told.to(a)).gather(1, top).sum(1)
    return torch.where(a.sum(1) > 0, held / a.sum(1), torch.nan)


def verbal_coverage(attributions: Tensor, *, cells: int = GRID, k: int = 10) -> Tensor:
    """Return the :func:`coverage_at_k` of the regions that a sentence on each map mentions, ``[N]``.

    Low values: the map is too spread out to be described in a sentence.

    Args:
        attributions: ``[N, C, H, W]``, whose channels are summed, or ``[N, H, W]``.
        cells: the features are cells of a grid of this size.
        k: number of cells.

    Example::

        images = torch.zeros(1, 1, 64, 64)
        images[..., :16, :16] = 1.0
        verbal_coverage(images)  # [1.0]: four cells in a corner hold everything
    """
    found = []
    maps = attributions.sum(1) if attributions.dim() == 4 else attributions
    for values in maps.detach().cpu().double():
        labels = grid_labels(values.shape[0], values.shape[1], cells)
        a = region_sums(values, labels)
        told = [label for region in salient_regions(values, labels) for label in region.labels]
        found.append(coverage_at_k(a[None], torch.isin(torch.arange(len(a)), torch.tensor(told)).unsqueeze(0), k=k))
    return torch.cat(found)
