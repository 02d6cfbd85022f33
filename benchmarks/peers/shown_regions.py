"""Outputs of a network for an image with only some regions shown, and with these regions hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

Regions: TypeAlias = frozenset[int]
BATCH = 16


class PassesSpent(Exception):
    """Error raised before more passes are taken than allowed."""


class ShownRegions:
    """The set function of region search, with every image run once.

    The value of a set of regions is its consistency and its collaboration score (Chen et al., arXiv 2402.09164,
    2504.00470), in those two of their four terms that follow from the network's answer:

        F(S) = p(c | S shown) + 1 - p(c | S hidden)

    Hidden pixels are zero. The other two need an encoder and an estimate of uncertainty, and are left out.

    Args:
        model: returns logits ``[N, K]``.
        x: one image, ``[1, C, H, W]``.
        label: the class ``c``.
        regions: labels of the regions, from 0 on, ``[H, W]``.
        passes: largest number of passes.
    """

    def __init__(self, model: nn.Module, x: Tensor, label: int, regions: Tensor, passes: int) -> None:
        self.model, self.x, self.label, self.regions, self.passes = model, x, label, regions, passes
        self.everything: Regions = frozenset(range(int(regions.max()) + 1))
        self._known: dict[Regions, float] = {}

    def values(self, sets: Sequence[Regions]) -> list[float]:
        """Return ``F`` of each set.

        Raises:
            PassesSpent: there are not enough passes left for all of them.
        """
        wanted = [one for s in sets for one in (s, self.everything - s) if one not in self._known]
        wanted = list(dict.fromkeys(wanted))
        if len(wanted) + len(self._known) > self.passes:
            raise PassesSpent
        for first in range(0, len(wanted), BATCH):
            some = wanted[first : first + BATCH]
            self._known |= zip(some, self._probabilities(some), strict=True)
        return [self._known[s] + 1 - self._known[self.everything - s] for s in sets]

    @torch.no_grad()
    def _probabilities(self, sets: Sequence[Regions]) -> list[float]:
        shown = torch.stack([torch.isin(self.regions, torch.tensor(sorted(s), dtype=torch.long)) for s in sets])
        seen = (self.x * shown[:, None]).contiguous(memory_format=torch.channels_last)
        return self.model(seen).float().softmax(1)[:, self.label].tolist()


def as_map(order: Sequence[int], regions: Tensor) -> Tensor:
    """Return a map ``[H, W]``: 1 for the first region, falling by equal steps to above 0 for the last."""
    score = torch.zeros(len(order))
    score[torch.tensor(order)] = 1 - torch.arange(len(order)) / len(order)
    return score[regions]
