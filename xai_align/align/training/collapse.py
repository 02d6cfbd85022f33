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

#: Above which share of CAMs that are zero everywhere something is wrong.
DEAD = 1 / 3

#: Below which difference of p_keep and p_drop masks tell nothing.
IDLE = 0.1

_WORDS = {
    "full": "nearly everything is kept",
    "empty": "nearly nothing is kept",
    "flat": "every place of an image is kept alike",
}


class CollapseWarning(UserWarning):
    """The masks have become the same everywhere, so they explain nothing.

    Example::

        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("error", CollapseWarning)
            try:
                AlignTrainer(model, Masker(start=0.99)).fit(loader, epochs=1)
            except CollapseWarning as warning:
                print(warning)  # nearly everything is kept (mean 0.989, ...)
    """


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


def dead_message(share: float, *, epoch: int) -> str | None:
    """A warning in words where too many CAMs are zero everywhere; None where they aren't.

    A rectified CAM that has died has no gradient back, and DRE's regulariser, which asks for sparse CAMs, is content.
    """
    if not share > DEAD:
        return None
    return (
        f"epoch {epoch}: {share:.0%} of the CAMs are zero everywhere, so nothing can be aligned there and nothing "
        "brings them back. Give the mixup (and the alignment) less weight, or normalise='signed', with which no CAM "
        "dies"
    )


def idle_message(p_keep: float | None, p_drop: float | None) -> str | None:
    """A warning in words where, in the end, what is kept says no more than what is dropped; None where it does."""
    if p_keep is None or p_drop is None or p_keep - p_drop >= IDLE:
        return None
    return (
        "what the masks keep says hardly more about the label than what they drop "
        f"(its probability is {p_keep:.2f} and {p_drop:.2f}), so they explain nothing. Train longer, the masker alone "
        "too (masker_only_epochs); a network that sees through pale pictures needs another fill: "
        "recipe('align', baseline='another_image')"
    )
