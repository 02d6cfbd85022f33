"""Symmetric relevance gain: least relevant first against most relevant first, each to the end.

Bluecher, Vielhaben & Strodthoff, "Decoupling Pixel Flipping and Occlusion Strategy for Consistent XAI Benchmarks",
TMLR 2024. A fill that disturbs the network does so in both directions, so it cancels in the difference; rankings
of methods depend less on the fill than with one direction only.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Literal, get_args

from torch import Tensor

from xai_align._tools.checks import check_choice, check_integer
from xai_align.evaluation.curve_metric import CurveMetric
from xai_align.evaluation.faithfulness import area
from xai_align.perturbation.questioned import curve_values
from xai_align.perturbation.ranking import positions_of
from xai_align.perturbation.spec import PerturbationSpec, steps

#: Cells of an image that are removed as a whole: 16 x 16 pixels of 224 x 224.
CELLS = (14, 14)
#: Steps from the whole input to nothing: 7 of the 196 cells each.
NUM_STEPS = 28
#: What is measured along the curve. "answer": the question's function of the logits (for a class, its logit);
#: "probability": the question's probability.
Of = Literal["answer", "probability"]


def symmetric_relevance_gain(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    grid: tuple[int, int] | None = None,
    feature_mask: Tensor | None = None,
    num_steps: int = NUM_STEPS,
    baselines: Any = "mean",
    of: Of = "answer",
    internal_batch_size: int | None = None,
    **options: Any,
) -> Tensor:
    """Compute SRG, the area under the curve of least relevant first, less that of most relevant first; ``[N]``.

    Higher is better; 0 is what a random order has on average. Patches are ranked by the sum of the map over them.
    Ties are ranked by position, row by row, and least relevant first is the exact reverse of most relevant first.
    NaN where all patches have the same sum.

    Args:
        forward_func: gives logits ``[N, K]``; an ``nn.Module`` must be in eval mode.
        inputs: ``[N, C, H, W]``, ``[N, L, C]`` (tokens) or ``[N, D]``.
        attributions: in the inputs' shape, or one score for each position.
        target: a class, a :class:`~xai_align.Question`, one for each example, or None for the predicted class.
        grid: rows and columns of the grid of patches. None: 14 x 14 for images (no more than there are pixels);
            positions for other inputs.
        feature_mask: integer labels of regions that are removed as a whole, e.g. superpixels, in place of a grid.
        num_steps: the removed share goes from 0 to 1 in this number of equal steps, ``floor(share * P)`` of P
            patches each; no more steps than patches of a grid.
        baselines: replacement of removed patches: "mean" is the image's own mean of each channel; others as in
            :func:`~xai_align.perturbation.perturbation_curve`.
        of: "answer": in logits, for a class its logit; "probability": the question's probability.
        internal_batch_size: number of perturbed inputs in one forward pass.
        **options: further options of :func:`~xai_align.perturbation.iterate_curves`.

    Raises:
        ValueError: both a grid and a feature mask, or inputs, attributions or options that don't fit; see
            ``iterate_curves``.
        TargetError: the target is not understood, or the output does not have it.

    Example::

        symmetric_relevance_gain(model, images, images.abs(), target=281, grid=(4, 4))  # [2], in logits
    """
    check_choice("of", of, get_args(Of))
    check_integer("num_steps", num_steps)
    for name, count in zip(("rows", "columns"), grid or (), strict=False):
        check_integer(f"{name} of grid", count)
    if grid is not None and feature_mask is not None:
        raise ValueError("grid and feature_mask both name the regions to remove; give one of them")
    if grid is None and feature_mask is None and inputs.dim() == 4:
        height, width = positions_of(inputs.shape)
        grid = (min(CELLS[0], height), min(CELLS[1], width))
    fractions = steps(num_steps if grid is None else min(num_steps, prod(grid)))
    # SRG = area(LIF) - area(MIF)
    metric = CurveMetric(
        specs=tuple(PerturbationSpec(baselines, order, fractions, grid) for order in ("lerf", "morf")),
        score=lambda curves, target: (
            area(curves[0].fractions, curve_values(curves[0], target)[1])
            - area(curves[1].fractions, curve_values(curves[1], target)[1])
        ),
    )
    if of == "answer":
        options = {"activation": None, **options}
    return metric(
        forward_func,
        inputs,
        attributions,
        target=target,
        feature_mask=feature_mask,
        internal_batch_size=internal_batch_size,
        **options,
    )
