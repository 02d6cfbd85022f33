"""Result of an optimisation of masks: the map, and diagnostics of the optimisation.

An optimised map is one of many possible results. So the record has the
quantiles, the areas that were reached and the losses, and warnings are issued
if areas were missed or many pixels tie.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from xai_align._tools.callers_level import callers_level
from xai_align._tools.checks import numbers_in
from xai_align.perturbation.ranking import rank, tie_rate, warn_of_ties

#: Largest difference of a mask's area from its quantile without a warning, as a share of the image.
AREA_TOLERANCE = 0.05


class AreaMissed(UserWarning):
    """Warning that a mask's area differs from its quantile: the area weight or the number of steps was too small.

    Example::

        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("error", AreaMissed)
            try:
                optimize_masks(model, images, solver="nested", n_iter=1)
            except AreaMissed as warning:
                print(warning)  # more steps (n_iter) are needed
    """


class UnchangedAnswer(UserWarning):
    """Warning that no composite changed the answer about an image, so that its map says nothing about the answer.

    Example::

        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("error", UnchangedAnswer)
            optimize_masks(model, images, n_iter=1)  # raises where the answer does not depend on the image
    """


@dataclass(frozen=True, kw_only=True)
class OptimisedMasks:
    """Optimised masks of some images, one for each quantile, and the map that combines them.

    Attributes:
        attribution: ``[N, H, W]``, float32 (float64 for float64 inputs): the mean of the masks, or the scores whose
            level sets they are. Only its ranking is meaningful; the values are not contributions.
        masks: ``[N, K, H, W]``, in [0, 1]; each lies within the next. 1 marks evidence: pixels that are shown when
            evidence is preserved, and hidden when it is deleted.
        quantiles: the ``K`` shares of the image that the masks should mark.
        areas: ``[N, K]``: the shares that they mark.
        losses: ``[N, steps]``: the objective before each step, see the solver.
        tie_fraction: ``[N]``: the share of the cells, or of the pixels without cells, whose score is not unique.
        clipped: the activations whose gradients were clipped, e.g. "features.1 (relu)".
        passes: forward and backward passes through the network for each image.
        answer_ranges: ``[N]``: the largest answer about a composite less the smallest, e.g. in logits. 0: the answer
            does not depend on what is hidden, and the map says nothing about it.
        notes: further remarks, e.g. the source of random colours.
        cells: ``[N, h, w]``: the scores that the map was upsampled from; None: each pixel has its own.
        start: ``[N, H, W]``: the map that the search started from; None: it started from no map.

    Example::

        found = optimize_masks(model, images, quantiles=(0.1, 0.3), n_iter=10)
        found.attribution  # [N, H, W]
        found.masks  # [N, 2, H, W], one for each quantile
    """

    attribution: Tensor
    masks: Tensor = field(repr=False)
    quantiles: tuple[float, ...]
    areas: Tensor
    losses: Tensor = field(repr=False)
    tie_fraction: Tensor
    clipped: tuple[str, ...]
    passes: int
    answer_ranges: Tensor
    notes: tuple[str, ...] = ()
    cells: Tensor | None = field(default=None, repr=False)
    start: Tensor | None = field(default=None, repr=False)


def optimised_masks(
    attribution: Tensor,
    masks: Tensor,
    losses: Tensor,
    *,
    quantiles: tuple[float, ...],
    clipped: Iterable[str],
    passes: int,
    answer_ranges: Tensor,
    notes: Iterable[str] = (),
    warn: bool = True,
    cells: Tensor | None = None,
    start: Tensor | None = None,
) -> OptimisedMasks:
    """Make the record of maps ``[N, H, W]`` and masks ``[N, K, H, W]``; warn of what is wrong with them.

    Ties are counted on ``cells`` if there are any: beyond the centres of the outermost cells, pixels are equal by
    construction.

    Raises:
        ValueError: maps, masks or losses hold NaN or infinity.
    """
    # level sets of NaN are zeros, so the maps are checked, too
    _check_finite(attribution, masks, losses)
    areas = masks.flatten(2).mean(2)
    ranked = attribution if cells is None else cells
    if warn:
        _warn_of_missed_areas(areas, quantiles)
        _warn_of_unchanged_answers(answer_ranges)
        warn_of_ties(rank(ranked))
    return OptimisedMasks(
        attribution=attribution,
        masks=masks,
        quantiles=quantiles,
        areas=areas,
        losses=losses,
        tie_fraction=tie_rate(ranked),
        clipped=tuple(clipped),
        passes=passes,
        answer_ranges=answer_ranges,
        notes=tuple(notes),
        cells=cells,
        start=start,
    )


def check_quantiles(quantiles: Sequence[float]) -> tuple[float, ...]:
    """Return the quantiles as floats.

    Raises:
        ValueError: there are none, or they don't increase strictly from above 0 to below 1.
    """
    given = numbers_in("the quantiles", quantiles)
    inside = all(0 < p < 1 for p in given)
    if not given or not inside or any(a >= b for a, b in pairwise(given)):
        raise ValueError(
            f"the quantiles are {given}; give shares of the image above 0 and below 1, each larger than the one before"
        )
    return given


def _check_finite(*found: Tensor) -> None:
    fine = torch.stack([values.flatten(1).isfinite().all(1) for values in found]).all(0)
    if not fine.all():
        wrong = (~fine).nonzero().flatten().tolist()
        raise ValueError(
            f"the optimisation of example(s) {wrong} produced NaN or infinity: the network gave such logits or "
            "gradients for a partly hidden image. Look for a square root or a logarithm at 0, or use a wider dtype"
        )


def _warn_of_missed_areas(areas: Tensor, quantiles: tuple[float, ...]) -> None:
    wanted = areas.new_tensor(quantiles)
    missed = ((areas - wanted).abs() > AREA_TOLERANCE).nonzero().tolist()
    if missed:
        i, k = missed[0]
        more = f" ({len(missed) - 1} more missed theirs)" if len(missed) > 1 else ""
        warnings.warn(
            f"the mask of example {i} for quantile {quantiles[k]:g} marks {float(areas[i, k]):.3f} of the image{more}; "
            "where many scores tie no mask has its area; the nested solver needs more steps (n_iter) or area_weight",
            AreaMissed,
            stacklevel=callers_level(),
        )


def _warn_of_unchanged_answers(answer_ranges: Tensor) -> None:
    unchanged = (answer_ranges == 0).nonzero().flatten().tolist()
    if unchanged:
        warnings.warn(
            f"the answer about example(s) {unchanged} was the same for every composite, whatever was hidden, so the "
            "map says nothing about it; the network ignores its input, the question has a constant answer, or the fill "
            "is the image itself",
            UnchangedAnswer,
            stacklevel=callers_level(),
        )
