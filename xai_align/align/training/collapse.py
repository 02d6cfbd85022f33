"""A mask that is full, empty or flat everywhere explains nothing: how it is noticed.

The masker's loss has a nearly perfect optimum at a mask of ones where sparsity
weighs nothing, and one of zeros where it weighs much. So after every epoch in which
the masker trained, the mean and the spread of its masks are looked at.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["full", "empty", "flat"]

#: Above which mean, below which mean, below which spread inside an image a mask has collapsed.
FULL, EMPTY, FLAT = 0.95, 0.01, 0.02

_WORDS = {
    "full": "nearly everything is kept",
    "empty": "nearly nothing is kept",
    "flat": "every place of an image is kept alike",
}


class CollapseWarning(UserWarning):
    """The masks have become the same everywhere, so they explain nothing."""


def collapsed(mean: float, std: float) -> Kind | None:
    """What the masks of an epoch have become; None: they tell places apart.

    Args:
        mean: of all masks.
        std: the spread inside an image, a mean over images.
    """
    if mean > FULL:
        return "full"
    if mean < EMPTY:
        return "empty"
    return "flat" if std < FLAT else None


def collapse_message(kind: Kind, *, epoch: int, mean: float, std: float, promise: str) -> str:
    """The warning in words."""
    return (
        f"epoch {epoch}: the masks have collapsed, {_WORDS[kind]} (mean {mean:.3g}, spread inside an image {std:.3g}); "
        f"they explain nothing like this. {promise}"
    )
