"""Schedule of a fit: decides from its progress whether the masker, the classifier or both take a step.

A fit has three phases. In the warm-up the classifier trains alone, on the terms that
need no mask. Then the masker trains alone, so that the classifier is not aligned to
masks of an untrained masker. Then both alternate. All functions here are pure, so a
fit that resumes from a checkpoint needs only its :class:`PlanPosition`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

Phase = Literal["warmup", "masker", "together"]
Alternation = Literal["batch", "epoch"]

PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Lengths of the phases, and alternation in the last one.

    A phase with both epochs and steps lasts at least that many of each. If a phase begins within an epoch, that
    epoch counts.

    Attributes:
        warmup_epochs, warmup_steps: length of the warm-up, the classifier alone.
        masker_only_epochs, masker_only_steps: length of the phase of the masker alone.
        alternation: "batch": the masker steps on every ``masker_every``-th batch and the classifier on every batch.
            "epoch": ``masker_epochs`` epochs of the masker, ``classifier_epochs`` of the classifier, repeatedly.
        with_masker: whether there is a masker to train.
        with_mask_source: whether any term needs a mask; otherwise there is no warm-up.
    """

    warmup_epochs: int = 0
    warmup_steps: int = 0
    masker_only_epochs: int = 0
    masker_only_steps: int = 0
    alternation: Alternation = "batch"
    masker_every: int = 1
    masker_epochs: int = 1
    classifier_epochs: int = 1
    with_masker: bool = True
    with_mask_source: bool = True


@dataclass(frozen=True, kw_only=True)
class PlanPosition:
    """Position of a fit in its plan.

    Attributes:
        phase: the current phase.
        epochs: number of ends of epochs in this phase.
        steps: number of steps in this phase.
    """

    phase: Phase = "warmup"
    epochs: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Turn:
    """Networks that take the next step.

    Attributes:
        masker: the masker takes a step, before the classifier.
        classifier: the classifier takes a step.
        with_masks: the classifier's step includes the terms that need a mask.
    """

    masker: bool
    classifier: bool
    with_masks: bool


def first_position(plan: Plan) -> PlanPosition:
    """Return the position at which a fit begins."""
    return _settled(plan, PlanPosition())


def turn_at(plan: Plan, position: PlanPosition) -> Turn:
    """Return the turn of the next step."""
    if position.phase == "warmup":
        return Turn(masker=False, classifier=True, with_masks=False)
    if position.phase == "masker":
        return Turn(masker=True, classifier=False, with_masks=False)
    if not plan.with_masker:
        return Turn(masker=False, classifier=True, with_masks=True)
    if plan.alternation == "batch":
        return Turn(masker=position.steps % plan.masker_every == 0, classifier=True, with_masks=True)
    of_masker = position.epochs % (plan.masker_epochs + plan.classifier_epochs) < plan.masker_epochs
    return Turn(masker=of_masker, classifier=not of_masker, with_masks=not of_masker)


def after_step(plan: Plan, position: PlanPosition) -> PlanPosition:
    """Return the position one step later."""
    return _settled(plan, replace(position, steps=position.steps + 1))


def after_epoch(plan: Plan, position: PlanPosition) -> PlanPosition:
    """Return the position after the end of an epoch."""
    return _settled(plan, replace(position, epochs=position.epochs + 1))


def own_progress(plan: Plan, steps_in_epoch: int, epochs: int) -> dict[str, list[float]]:
    """Return for each network, at each step of a fit, the share of the network's own steps that is done, 0 to 1.

    Example::

        >>> own_progress(Plan(warmup_epochs=1, masker_only_epochs=1), 2, 3)["classifier"]
        [0.0, 0.25, 0.5, 0.5, 0.5, 0.75]
        >>> own_progress(Plan(warmup_epochs=1, masker_only_epochs=1), 2, 3)["masker"]
        [0.0, 0.0, 0.0, 0.25, 0.5, 0.75]
    """
    done: dict[str, list[int]] = {"masker": [0], "classifier": [0]}
    position = first_position(plan)
    for _ in range(epochs):
        for _ in range(steps_in_epoch):
            turn = turn_at(plan, position)
            for name, steps in (("masker", turn.masker), ("classifier", turn.classifier)):
                done[name].append(done[name][-1] + steps)
            position = after_step(plan, position)
        position = after_epoch(plan, position)
    return {name: [made / max(counts[-1], 1) for made in counts[:-1]] for name, counts in done.items()}


def _settled(plan: Plan, position: PlanPosition) -> PlanPosition:
    """Return the position itself, or the beginning of the next phase that is not empty."""
    while position.phase != "together" and _is_over(plan, position):
        position = PlanPosition(phase=PHASES[PHASES.index(position.phase) + 1])
    return position


def _is_over(plan: Plan, position: PlanPosition) -> bool:
    if position.phase == "warmup":
        done = position.epochs >= plan.warmup_epochs and position.steps >= plan.warmup_steps
        return done or not (plan.with_masker or plan.with_mask_source)
    done = position.epochs >= plan.masker_only_epochs and position.steps >= plan.masker_only_steps
    return done or not plan.with_masker
