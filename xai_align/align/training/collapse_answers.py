"""What is done when masks have collapsed: the area is pushed into a range, or sparsity weighs more or less.

No answer changes a term that was given: it adds terms, and says how much each one weighs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from xai_align.align.terms.masker_terms import AreaHinge, MaskerTerm, Sparsity
from xai_align.align.training.collapse import Kind
from xai_align.align.training.settings import OnCollapse
from xai_align.align.views.masker_view import MaskerView

Weighed = list[tuple[MaskerTerm, float]]


class CollapseAnswer(Protocol):
    """What is done."""

    @property
    def promise(self) -> str:
        """What is done from now on, in a sentence."""
        ...

    def hear(self, kind: Kind | None, mean: float) -> None:
        """An epoch of the masker is over; this is what its masks had become, and their mean."""
        ...

    def weighed(self, terms: Sequence[MaskerTerm]) -> Weighed:
        """The terms that count now, with their weights."""
        ...

    def state_dict(self) -> dict[str, float]:
        """What to go on with, as JSON has it."""
        ...

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go back to a state."""
        ...


class OnlyWarn:
    """Nothing but the warning."""

    promise = "Nothing is changed (on_collapse='warn'); another weight of the sparsity may help"

    def hear(self, kind: Kind | None, mean: float) -> None:
        """Nothing is done."""

    def weighed(self, terms: Sequence[MaskerTerm]) -> Weighed:
        """The terms as they are."""
        return [(term, term.weight) for term in terms]

    def state_dict(self) -> dict[str, float]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Nothing to go back to."""


@dataclass(kw_only=True)
class AnswerArea(AreaHinge):
    """The hinge of an answer, which also reaches masks that are saturated.

    At a mask of ones the sigmoid is flat, so an area has next to no gradient there. Its inverse, the logit, has one:
    where an image's area is out of range, the mean of its logits is drawn towards the range too.

    Attributes:
        draw: how much of that, beside the hinge itself.
    """

    name: ClassVar[str] = "collapse_area"

    draw: float = 0.1

    def values(self, view: MaskerView) -> Tensor:
        """``[N]``."""
        masks = view.masks.flatten(1)
        mean = masks.mean(1)
        logits = masks.logit(torch.finfo(masks.dtype).eps / 2).mean(1)
        above = (mean > self.limit) * (logits - _logit(self.limit)).relu()
        below = (mean < self.least) * (_logit(self.least) - logits).relu()
        return super().values(view) + self.draw * (above + below)


def _logit(share: float) -> float:
    """Of a share strictly between 0 and 1, or close to it."""
    inside = min(max(share, 1e-6), 1 - 1e-6)
    return log(inside / (1 - inside))


class AreaInRange:
    """A mask may keep no more than a limit that falls from epoch to epoch, and no less than a floor.

    AIM (Alshami et al. 2025, arXiv 2508.11502) lets the active area fall from 1.0 to 0.35 or 0.25 by a schedule; here
    it begins to fall when masks are full for the first time, and stays.

    Args:
        lowest: where the limit ends.
        epochs: of the masker, until it is there.
        floor: what a mask keeps at least, once masks were empty.
        weight: of the hinges, beyond that of the sparsity, which pulls against the floor; the distinction that pulls
            against the limit is never above 4.
    """

    def __init__(self, *, lowest: float = 0.35, epochs: int = 4, floor: float = 0.1, weight: float = 5.0) -> None:
        self.lowest, self.epochs, self.floor, self.weight = lowest, epochs, floor, weight
        self._falling, self._held = 0, False

    @property
    def limit(self) -> float:
        """How much of an image a mask may keep now."""
        return 1.0 - (1.0 - self.lowest) * min(self._falling / self.epochs, 1.0)

    @property
    def promise(self) -> str:
        """What is done, in a sentence."""
        parts = []
        if self._falling:
            parts.append(f"the area that they may keep falls to {self.lowest} (it is {self.limit:.2f} now)")
        if self._held:
            parts.append(f"they are asked to keep at least {self.floor}")
        return f"From now on {' and '.join(parts) or 'nothing is changed'} (on_collapse='area')"

    def hear(self, kind: Kind | None, mean: float) -> None:
        """A first full (or flat, where much is kept) mask starts the fall; an empty one puts the floor in."""
        if self._falling or kind == "full" or (kind == "flat" and mean > self.lowest):
            self._falling += 1
        if kind == "empty" or (kind == "flat" and mean <= self.lowest):
            self._held = True

    def weighed(self, terms: Sequence[MaskerTerm]) -> Weighed:
        """The terms as they are, and the hinge, once there is one."""
        known: Weighed = [(term, term.weight) for term in terms]
        if self._falling or self._held:
            against = sum(term.weight for term in terms if isinstance(term, Sparsity)) if self._held else 0.0
            hinge = AnswerArea(limit=self.limit, least=self.floor if self._held else 0.0, weight=self.weight + against)
            known.append((hinge, hinge.weight))
        return known

    def state_dict(self) -> dict[str, float]:
        """How far it is."""
        return {"falling": self._falling, "held": float(self._held)}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from there."""
        falling, held = state["falling"], state["held"]
        if falling < 0 or held not in (0, 1):
            raise ValueError(
                f"the answer to collapsed masks can't have fallen {falling} times and be held {held} times"
            )
        self._falling, self._held = int(falling), bool(held)


class MoreOrLessSparsity:
    """Sparsity weighs twice as much in every epoch after full masks, and half as much after empty ones.

    Args:
        factor: by which the weight changes.
        least: what it is raised to at least, where it was (nearly) nothing.
    """

    def __init__(self, *, factor: float = 2.0, least: float = 0.5) -> None:
        self.factor, self.least = factor, least
        self._times = 0

    @property
    def promise(self) -> str:
        """What is done, in a sentence."""
        return f"From now on sparsity weighs {self._share:.3g} times what it did (on_collapse='sparsity')"

    @property
    def _share(self) -> float:
        return float(self.factor**self._times)

    def hear(self, kind: Kind | None, mean: float) -> None:
        """Full (or flat and more than half): more. Empty (or flat and less): less."""
        if kind is not None:
            self._times += 1 if kind == "full" or (kind == "flat" and mean > 0.5) else -1

    def weighed(self, terms: Sequence[MaskerTerm]) -> Weighed:
        """The terms, the sparsity with its weight of now."""
        known = [term for term in terms if isinstance(term, Sparsity)]
        added: list[MaskerTerm] = [] if known or self._times <= 0 else [Sparsity(weight=0.0)]
        return [(term, self._weight(term) if isinstance(term, Sparsity) else term.weight) for term in (*terms, *added)]

    def _weight(self, term: Sparsity) -> float:
        if self._times <= 0:
            return term.weight * self._share
        return max(term.weight, self.least / self.factor) * self._share

    def state_dict(self) -> dict[str, float]:
        """How often the weight changed."""
        return {"times": self._times}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from there."""
        self._times = int(state["times"])


def answer_of(on_collapse: OnCollapse) -> CollapseAnswer:
    """A fresh answer of this name."""
    answers: dict[OnCollapse, type[CollapseAnswer]] = {
        "area": AreaInRange,
        "sparsity": MoreOrLessSparsity,
        "warn": OnlyWarn,
    }
    return answers[on_collapse]()
