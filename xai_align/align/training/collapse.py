"""Detection of collapsed masks: full, empty or flat masks explain nothing.

The masker's loss has a nearly perfect optimum at a mask of ones if the weight of the
sparsity is zero, and at one of zeros if it is large. So after every epoch in which
the masker trained, the mean and the spread of its masks are checked.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["full", "empty", "flat"]

#: A mask has collapsed with a mean above FULL or below EMPTY, or a standard deviation within an image below FLAT.
FULL, EMPTY, FLAT = 0.95, 0.01, 0.02

#: Largest acceptable share of CAMs that are zero everywhere.
DEAD = 1 / 3

#: Masks with a smaller difference of p_keep and p_drop are uninformative.
IDLE = 0.1

_WORDS = {
    "full": "nearly everything is kept",
    "empty": "nearly nothing is kept",
    "flat": "all pixels of an image are kept equally",
}


class CollapseWarning(UserWarning):
    """Warning that the masks have become constant, so they explain nothing.

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
    """Return how the masks of an epoch have collapsed; None: they have not.

    Args:
        mean: mean of all masks.
        std: standard deviation within an image, averaged over images.
    """
    if mean > FULL:
        return "full"
    if mean < EMPTY:
        return "empty"
    return "flat" if std < FLAT else None


def collapse_message(kind: Kind, *, epoch: int, mean: float, std: float, description: str) -> str:
    """Return the text of the warning."""
    return (
        f"epoch {epoch}: the masks have collapsed, {_WORDS[kind]} (mean {mean:.3g}, spread inside an image {std:.3g}), "
        f"so they are not explanations. {description}"
    )


def dead_message(share: float, *, epoch: int) -> str | None:
    """Return a warning if too many CAMs are zero everywhere, else None.

    A rectified CAM that is zero everywhere has no gradient, and minimises DRE's regulariser, which favours sparse CAMs.
    """
    if not share > DEAD:
        return None
    return (
        f"epoch {epoch}: {share:.0%} of the CAMs are zero everywhere: their gradient is zero, so they cannot "
        "recover. Give the mixup (and the alignment) less weight, or use normalise='signed', with which no CAM becomes "
        "zero"
    )


def idle_message(p_keep: float | None, p_drop: float | None, *, baseline: object = None) -> str | None:
    """Return a warning if at the end the kept part predicts the label no better than the dropped part, else None.

    Args:
        p_keep: probability of the label with the kept part alone; None: not measured.
        p_drop: probability of the label with the dropped part alone; None: not measured.
        baseline: the fill in use, which the warning does not advise.
    """
    if p_keep is None or p_drop is None or p_keep - p_drop >= IDLE:
        return None
    message = (
        f"the kept part predicts the label barely better than the dropped part (probability {p_keep:.2f} and "
        f"{p_drop:.2f}), so the masks explain nothing. A masker needs a classifier that predicts the labels well: "
        "train that longer first (warmup_epochs), and then the masker alone (masker_only_epochs)"
    )
    if baseline == "another_image":
        return message
    return (
        f"{message}; a network that recognises low-contrast images needs another fill: "
        "recipe('align', baseline='another_image')"
    )
