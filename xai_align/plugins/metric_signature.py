"""Checks of a metric's signature before anything is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

#: Arguments that a metric gets if its ``evaluate`` names them: functions that explain the same or another model, the
#: explanation that the attributions come from, boxes and masks of the object, scores from outside, inputs of other
#: images, the number of perturbed inputs at once, the function from logits to probabilities.
OFFERS = (
    *("explain", "explain_model", "explanation", "boxes", "masks", "scores", "other_images", "internal_batch_size"),
    "activation",
)


def needs_of(evaluate: Callable[..., Any]) -> frozenset[str]:
    """Return those of :data:`OFFERS` that a metric names."""
    try:
        return frozenset(inspect.signature(evaluate).parameters) & frozenset(OFFERS)
    except (TypeError, ValueError):  # a callable without a signature
        return frozenset()


def call_problem(evaluate: Callable[..., Any]) -> str:
    """Return why ``evaluate(forward_func, inputs, attributions, target=...)`` isn't a possible call, or ""."""
    try:
        signature = inspect.signature(evaluate)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(None, None, None, target=None, **dict.fromkeys(needs_of(evaluate)))
    except TypeError as error:
        return (
            f"can't be called as evaluate(forward_func, inputs, attributions, target=...): {error}; further parameters "
            f"without a default are among {', '.join(OFFERS)}"
        )
    return ""
