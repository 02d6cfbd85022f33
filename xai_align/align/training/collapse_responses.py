"""Responses to collapsed masks: constrain the area to a range, or change the weight of the sparsity.

No response changes a given term: it adds terms, and sets the weight of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor

from xai_align.align.forward_passes.masker_pass import MaskerPass
from xai_align.align.options import OnCollapse
from xai_align.align.terms.masker_terms import AreaHinge, MaskerTerm, Sparsity
from xai_align.align.training.collapse import Kind

WeightedTerms = list[tuple[MaskerTerm, float]]


class CollapseResponse:
    """Response that only warns; others change the terms of the masker's loss."""

    @property
    def description(self) -> str:
        """Sentence for the warning that describes the response from now on."""
        return "Nothing is changed (on_collapse='warn'); another weight of the sparsity may help"

    def update(self, kind: Kind | None, mean: float) -> None:
        """Record the kind of collapse after an epoch of the masker, and the mean of its masks."""

    def weighted_terms(self, terms: Sequence[MaskerTerm]) -> WeightedTerms:
        """Return the current terms with their weights."""
        return [(term, term.weight) for term in terms]

    def state_dict(self) -> dict[str, float]:
        """Return the state, in JSON types."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore a state."""


@dataclass(kw_only=True)
class CollapseArea(AreaHinge):
    """Area hinge that also has a gradient at saturated masks.

    At a mask of ones the sigmoid is flat, so the area has almost no gradient there. The logit has one: if an image's
    area is out of range, the mean of its logits is also pulled towards the range.

    Attributes:
        draw: weight of the pull on the logits, relative to the hinge.
    """

    name: ClassVar[str] = "collapse_area"

    draw: float = 0.1

    def values(self, forward: MaskerPass) -> Tensor:
        """Return the penalty of each mask, ``[N]``."""
        masks = forward.masks.flatten(1)
        mean = masks.mean(1)
        logits = masks.logit(torch.finfo(masks.dtype).eps / 2).mean(1)
        above = (mean > self.limit) * (logits - _logit(self.limit)).relu()
        below = (mean < self.least) * (_logit(self.least) - logits).relu()
        return super().values(forward) + self.draw * (above + below)


def _logit(share: float) -> float:
    """Return the logit of a share, clamped to the open interval (0, 1)."""
    inside = min(max(share, 1e-6), 1 - 1e-6)
    return log(inside / (1 - inside))


class AreaLimits(CollapseResponse):
    """Response that bounds a mask's area by a limit that falls from epoch to epoch, and by a floor.

    AIM (Alshami et al. 2025, arXiv 2508.11502) reduces the active area from 1.0 to 0.35 or 0.25 by a schedule; here it
    starts falling when masks are full for the first time, and remains at its final value.

    Args:
        lowest: final value of the limit.
        epochs: epochs of the masker until the limit reaches it.
        floor: minimum area of a mask, once masks have been empty.
        weight: weight of the hinges, on top of that of the sparsity, which pulls against the floor; the distinction,
            which pulls against the limit, is never above 4.
    """

    def __init__(self, *, lowest: float = 0.35, epochs: int = 4, floor: float = 0.1, weight: float = 5.0) -> None:
        self.lowest, self.epochs, self.floor, self.weight = lowest, epochs, floor, weight
        self._falling, self._held = 0, False

    @property
    def limit(self) -> float:
        """Current limit of a mask's area."""
        return 1.0 - (1.0 - self.lowest) * min(self._falling / self.epochs, 1.0)

    @property
    def description(self) -> str:
        """Sentence for the warning that describes the response."""
        parts = []
        if self._falling:
            parts.append(f"the maximum area is lowered to {self.lowest} step by step (now {self.limit:.2f})")
        if self._held:
            parts.append(f"the minimum area is set to {self.floor}")
        return f"From now on {' and '.join(parts) or 'nothing is changed'} (on_collapse='area')"

    def update(self, kind: Kind | None, mean: float) -> None:
        """Start lowering the limit at the first full (or flat and large) masks; set the floor at empty ones."""
        if self._falling or kind == "full" or (kind == "flat" and mean > self.lowest):
            self._falling += 1
        if kind == "empty" or (kind == "flat" and mean <= self.lowest):
            self._held = True

    def weighted_terms(self, terms: Sequence[MaskerTerm]) -> WeightedTerms:
        """Return the terms unchanged, and the hinge, once there is one."""
        known: WeightedTerms = [(term, term.weight) for term in terms]
        if self._falling or self._held:
            against = sum(term.weight for term in terms if isinstance(term, Sparsity)) if self._held else 0.0
            hinge = CollapseArea(
                limit=self.limit, least=self.floor if self._held else 0.0, weight=self.weight + against
            )
            known.append((hinge, hinge.weight))
        return known

    def state_dict(self) -> dict[str, float]:
        """Return the state of limit and floor."""
        return {"falling": self._falling, "held": float(self._held)}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore a state."""
        falling, held = state["falling"], state["held"]
        if falling < 0 or held not in (0, 1):
            raise ValueError(
                f"the response to collapsed masks can't have fallen {falling} times and be held {held} times"
            )
        self._falling, self._held = int(falling), bool(held)


class AdjustedSparsity(CollapseResponse):
    """Response that doubles the weight of the sparsity after full masks, and halves it after empty ones.

    Args:
        factor: factor of the change.
        least: minimum of an increased weight, for weights that were (nearly) zero.
    """

    def __init__(self, *, factor: float = 2.0, least: float = 0.5) -> None:
        self.factor, self.least = factor, least
        self._times = 0

    @property
    def description(self) -> str:
        """Sentence for the warning that describes the response."""
        return f"From now on the sparsity weight is {self._share:.3g} times the given one (on_collapse='sparsity')"

    @property
    def _share(self) -> float:
        return float(self.factor**self._times)

    def update(self, kind: Kind | None, mean: float) -> None:
        """Increase the weight for full (or flat, above one half) masks; decrease it for empty (or other flat) ones."""
        if kind is not None:
            self._times += 1 if kind == "full" or (kind == "flat" and mean > 0.5) else -1

    def weighted_terms(self, terms: Sequence[MaskerTerm]) -> WeightedTerms:
        """Return the terms, the sparsity with its current weight."""
        known = [term for term in terms if isinstance(term, Sparsity)]
        added: list[MaskerTerm] = [] if known or self._times <= 0 else [Sparsity(weight=0.0)]
        return [(term, self._weight(term) if isinstance(term, Sparsity) else term.weight) for term in (*terms, *added)]

    def _weight(self, term: Sparsity) -> float:
        if self._times <= 0:
            return term.weight * self._share
        return max(term.weight, self.least / self.factor) * self._share

    def state_dict(self) -> dict[str, float]:
        """Return how often the weight changed."""
        return {"times": self._times}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore a state."""
        self._times = int(state["times"])


def response_to(on_collapse: OnCollapse) -> CollapseResponse:
    """Return a new response of this name."""
    answers: dict[OnCollapse, type[CollapseResponse]] = {
        "area": AreaLimits,
        "sparsity": AdjustedSparsity,
        "warn": CollapseResponse,
    }
    return answers[on_collapse]()
