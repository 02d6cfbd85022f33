"""Both solvers: the weighted mean of the maps of a curve search and of nested masks.

Maps of the curve solver hold under fills that it never saw. Nested masks have a
cell for each pixel, so their own curves are better on some networks. The two err in
different places, so with both maps at mean 0 and standard deviation 1

    a = w a_curve + (1 - w) a_nested

is ahead of either, and of the mean of several searches of one kind with more passes.
Ours; the nested masks are FEI's (arXiv 2509.04588), with the random fills of the curve
solver instead of solid colours: masks that see only solid colours fit these, and do
worse under other fills.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_integer, check_number
from xai_align._tools.options import with_changes
from xai_align.features.resolve_layer import Layers
from xai_align.fei.curve import curve_masks, curve_steps
from xai_align.fei.curve_options import CurveOptions
from xai_align.fei.optimised import OptimisedMasks, check_quantiles, optimised_masks
from xai_align.fei.published.gradient_clipping import ClippingMode, NothingToClip
from xai_align.fei.published.nested import nested_masks
from xai_align.fei.quantile_masks import level_sets, standardised
from xai_align.fei.solid_colours import Normalization
from xai_align.question import Question

#: Steps of the curve solver, of two passes each; steps of the nested one for each share, of one pass each.
STEPS, NESTED_STEPS = 50, 10
#: Shares of the image that the nested masks mark; those of the published configuration.
NESTED_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)


def both_masks(
    model: nn.Module,
    inputs: Tensor,
    questions: Sequence[Question],
    *,
    quantiles: Sequence[float] = NESTED_QUANTILES,
    n_iter: int = STEPS,
    nested_iter: int = NESTED_STEPS,
    weight: float = 0.8,
    clip: ClippingMode | None = None,
    clip_layers: Layers | None = None,
    normalization: Normalization | None = None,
    baselines: Any = None,
    seed: int = 0,
    options: CurveOptions | None = None,
    additional_forward_args: Any = None,
    progress: Callable[[int], None] | None = None,
    warn: bool = True,
    **changed: Any,
) -> OptimisedMasks:
    """Optimise a map for each image by both solvers, and return the weighted mean of the two.

    Args:
        model: gives logits ``[N, ...]``; in eval mode. A copy of it is run.
        inputs: images ``[N, C, H, W]``.
        questions: one for each image.
        quantiles: the shares of the image whose level sets are returned as masks, strictly increasing in (0, 1).
        n_iter: steps of the curve solver, of two forward and backward passes each.
        nested_iter: steps of the nested solver for each of five shares, of one pass each.
        weight: ``w``, the weight of the curve solver's map, in [0, 1].
        clip: rule of gradient clipping in the nested solver; None: "ibm", or "none" if there is nothing to clip.
        clip_layers: the modules inside which gradients are clipped; None: all.
        normalization: ``(mean, std)`` of the images, for solid colours.
        baselines: one fill for all steps instead of random ones, as in the solvers.
        seed: seed of both solvers.
        additional_forward_args: further arguments of the model; tensors of the batch's length are repeated for
            the composites.
        progress: called with 1 after each step.
        warn: whether to issue warnings about the result.
        options: further options of the curve solver; None: the defaults of :class:`~xai_align.fei.CurveOptions`.
        **changed: single fields of these options, e.g. ``restarts=3``.

    Returns:
        The means, of mean 0, as ``attribution`` and their level sets as ``masks``. ``losses`` are those of the
        curve solver's steps, then those of the nested one's.

    Raises:
        TypeError, ValueError: the model, the inputs or an option is invalid.
        NothingToClip: a rule or layers were given and there is no activation to clip.

    Warns:
        TieWarning: many pixels share their score.
        UnchangedAnswer: no composite changed the answer about an image.
    """
    shares = check_quantiles(quantiles)
    w = check_number("weight", weight, least=0, most=1)
    check_integer("nested_iter", nested_iter)
    given: dict[str, Any] = {
        "normalization": normalization,
        "baselines": baselines,
        "seed": seed,
        "additional_forward_args": additional_forward_args,
        "progress": progress,
        "warn": False,
    }
    chosen = with_changes(options, CurveOptions, changed, "both_masks")
    curve = curve_masks(model, inputs, questions, quantiles=shares, n_iter=n_iter, options=chosen, **given)
    of_nested = given | {
        "quantiles": NESTED_QUANTILES,
        "n_iter": nested_iter,
        "clip_layers": clip_layers,
        "fills": chosen.fills,
    }
    notes: list[str] = []
    try:
        nested = nested_masks(model, inputs, questions, clip=clip or "ibm", **of_nested)
    except NothingToClip:
        if clip is not None or clip_layers is not None:
            raise
        notes = ["nothing was clipped in the nested masks: the network has no activation to clip"]
        nested = nested_masks(model, inputs, questions, clip="none", **of_nested)
    a = w * standardised(curve.attribution) + (1 - w) * standardised(nested.attribution)
    return optimised_masks(
        a,
        level_sets(a, shares),
        torch.cat([curve.losses, nested.losses], 1),
        quantiles=shares,
        clipped=nested.clipped,
        passes=curve.passes + nested.passes,
        answer_ranges=torch.maximum(curve.answer_ranges, nested.answer_ranges),
        notes=dict.fromkeys([*curve.notes, *nested.notes, *notes]),
        warn=warn,
    )


def both_steps(options: Mapping[str, Any]) -> int:
    """Return the number of steps with these options, of the curve solver and of the nested one."""
    return curve_steps(options) + len(NESTED_QUANTILES) * check_integer("nested_iter", options["nested_iter"])
