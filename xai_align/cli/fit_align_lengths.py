"""Lengths of a training by ``xai-align fit-align``, in steps rather than epochs, from the number of training images.

At first a mask that keeps everything must have a lower loss than one that keeps nothing, or else the sparsity term
empties the masks: with ``(p_keep - p_drop - 1)^2 + 2 mean(M)`` that is ``(1 - g)^2 + 2 < (1 + g)^2``, where ``g`` is
the label's probability on the image less that on another image, so ``g > 1/2``. So the classifier has to be nearly
trained before the masker begins, in a small folder too, and steps of the masker alone must not count as steps of the
classifier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from xai_align._tools.counted import counted
from xai_align.align.recipe_record import Recipe

#: Steps of the classifier alone, of the masker alone, and of both in turn, at the least.
WARMUP, ALONE, TOGETHER = 100, 75, 100
#: Epochs of each at the least.
FEWEST = (2, 1, 7)
#: Images in a batch, and that of folders with this many training images and more.
BATCH, LARGE_BATCH, LARGE = 16, 32, 1000


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Lengths of a fit.

    Attributes:
        epochs: of the whole fit.
        warmup_epochs: the first ones, of the classifier alone.
        masker_only_epochs: those after them, of the masker alone.
        batch_size: images in a step.
    """

    epochs: int
    warmup_epochs: int
    masker_only_epochs: int
    batch_size: int


def lengths(
    images: int,
    recipe: Recipe,
    *,
    epochs: int | None = None,
    warmup_epochs: int | None = None,
    masker_only_epochs: int | None = None,
    batch_size: int | None = None,
) -> Lengths:
    """Return the lengths that were given, and for the others those of so many training images.

    With a given number of epochs, two fifths are warm-up and a fifth is the masker's alone, if that is less. A recipe
    without a masker gets as many steps of the classifier as one with it.

    Example::

        >>> from xai_align.align import recipe
        >>> lengths(392, recipe("align"))
        Lengths(epochs=14, warmup_epochs=4, masker_only_epochs=3, batch_size=16)
        >>> lengths(392, recipe("erm")).epochs
        11
    """
    batch = batch_size or (LARGE_BATCH if images >= LARGE else BATCH)
    steps = max(math.ceil(images / batch), 1)
    warm, alone, together = (
        max(least, math.ceil(count / steps)) for least, count in zip(FEWEST, (WARMUP, ALONE, TOGETHER), strict=True)
    )
    if not recipe.trains_masker:
        alone = 0
    if epochs is not None:
        warm, alone = min(warm, 2 * epochs // 5), min(alone, epochs // 5)
    warm = warm if warmup_epochs is None else warmup_epochs
    alone = alone if masker_only_epochs is None else masker_only_epochs
    return Lengths(
        epochs=warm + alone + together if epochs is None else epochs,
        warmup_epochs=warm,
        masker_only_epochs=alone,
        batch_size=batch,
    )


def check_lengths(chosen: Lengths, images: int, recipe: Recipe) -> list[str]:
    """Return reasons to expect little of a fit of these lengths, in sentences.

    Raises:
        ValueError: no epoch is left in which the classifier learns from masks.
    """
    if recipe.mask_source is None:
        return []
    alone = chosen.masker_only_epochs if recipe.trains_masker else 0
    before = chosen.warmup_epochs + alone
    if before >= chosen.epochs:
        raise ValueError(
            f"of {counted(chosen.epochs, 'epoch')}, {chosen.warmup_epochs} for warm-up and {alone} for the masker only "
            f"leave none in which the classifier learns from masks; give more than {counted(before, 'epoch')}, or "
            "fewer of those"
        )
    steps = max(math.ceil(images / chosen.batch_size), 1)
    warm = steps * chosen.warmup_epochs
    if not recipe.trains_masker or 2 * warm >= WARMUP:
        return []
    return [
        f"the classifier makes only {counted(warm, 'step')} before the masker begins; a masker needs a classifier "
        f"that predicts the labels well, which usually takes about {counted(WARMUP, 'step')}, so masks may become "
        "empty: leave --warmup-epochs and --epochs out, or give more"
    ]
