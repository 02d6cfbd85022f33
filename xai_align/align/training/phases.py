"""Who steps next: from how far a fit has come to whether the masker, the classifier or both take a step.

A fit has three phases, one after the other. In the warm-up the classifier trains
alone, on everything but what needs a mask. Then the masker trains alone, so that
the first mask a classifier is aligned to is not an untrained one. Then both take
turns. All functions here are pure, so a fit that goes on from a checkpoint needs
nothing but its :class:`Place`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

Phase = Literal["warmup", "masker", "together"]
Alternation = Literal["batch", "epoch"]

PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long the phases last and how turns are taken in the last one.

    A phase with both epochs and steps lasts at least so many of each. An epoch that a phase begins in the middle
    of counts as one.

    Attributes:
        warmup_epochs, warmup_steps: of the classifier alone.
        masker_only_epochs, masker_only_steps: of the masker alone.
        alternation: "batch": the masker steps on every ``masker_every``-th batch and the classifier on every batch.
            "epoch": ``masker_epochs`` epochs of the masker, ``classifier_epochs`` of the classifier, and again.
        with_masker: whether there is a masker to train.
        with_guide: whether any term has to wait for a mask; without, there is nothing to warm up for.
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
    with_guide: bool = True


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in a plan a fit is.

    Attributes:
        phase: the present one.
        epochs: ends of epochs that this phase has seen.
        steps: that were made in it.
    """

    phase: Phase = "warmup"
    epochs: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Turn:
    """Who takes the next step.

    Attributes:
        masker: the masker does, before the classifier.
        classifier: the classifier does.
        guided: terms that look at a mask take part in the classifier's.
    """

    masker: bool
    classifier: bool
    guided: bool


def first_place(plan: Plan) -> Place:
    """Where a fit begins."""
    return _settled(plan, Place())


def turn_at(plan: Plan, place: Place) -> Turn:
    """Who takes the next step."""
    if place.phase == "warmup":
        return Turn(masker=False, classifier=True, guided=False)
    if place.phase == "masker":
        return Turn(masker=True, classifier=False, guided=False)
    if not plan.with_masker:
        return Turn(masker=False, classifier=True, guided=True)
    if plan.alternation == "batch":
        return Turn(masker=place.steps % plan.masker_every == 0, classifier=True, guided=True)
    of_masker = place.epochs % (plan.masker_epochs + plan.classifier_epochs) < plan.masker_epochs
    return Turn(masker=of_masker, classifier=not of_masker, guided=not of_masker)


def after_step(plan: Plan, place: Place) -> Place:
    """Where a fit is one step later."""
    return _settled(plan, replace(place, steps=place.steps + 1))


def after_epoch(plan: Plan, place: Place) -> Place:
    """Where a fit is at the end of an epoch."""
    return _settled(plan, replace(place, epochs=place.epochs + 1))


def _settled(plan: Plan, place: Place) -> Place:
    """The place itself, or the beginning of the next phase that lasts at all."""
    while place.phase != "together" and _is_over(plan, place):
        place = Place(phase=PHASES[PHASES.index(place.phase) + 1])
    return place


def _is_over(plan: Plan, place: Place) -> bool:
    if place.phase == "warmup":
        done = place.epochs >= plan.warmup_epochs and place.steps >= plan.warmup_steps
        return done or not (plan.with_masker or plan.with_guide)
    done = place.epochs >= plan.masker_only_epochs and place.steps >= plan.masker_only_steps
    return done or not plan.with_masker
