"""Both solvers: the weighted mean of the maps of a curve search, of nested masks, and of the search's start.

Maps of the curve solver hold under fills that it never saw. Nested masks have a
cell for each pixel, so their own curves are better on some networks. The two err in
different places, so with all maps at mean 0 and standard deviation 1

    a = (w - v) a_curve + (1 - w) a_nested + v a_start

is ahead of either, and of the mean of several searches of one kind with more passes.
The curve solver starts from the exact readout. In a transformer the readout is ahead of
every search under some fills, so it counts by ``v``; elsewhere it only lowers the curves.

Ours; the nested masks are FEI's (arXiv 2509.04588), with the random fills of the curve
solver instead of solid colours: masks that see only solid colours fit these, and do
worse under other fills. Their gradients are clipped as published where all activations
are ReLUs. A GELU is never silent, and clipping it makes the masks worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_integer, check_number
from xai_align._tools.options import with_changes
from xai_align.features.resolve_layer import Layers
from xai_align.fei.composites import check_image_model
from xai_align.fei.curve import curve_masks, curve_steps
from xai_align.fei.curve_options import CurveOptions
from xai_align.fei.optimised import OptimisedMasks, check_quantiles, optimised_masks
from xai_align.fei.published.gradient_clipping import ClippingMode, NothingToClip, clippable_calls
from xai_align.fei.published.nested import nested_masks
from xai_align.fei.quantile_masks import level_sets, standardised
from xai_align.fei.solid_colours import Normalization
from xai_align.perturbation.token_grid import token_grid
from xai_align.pinet.input_checks import forward_arguments
from xai_align.question import Question

#: Steps of the curve solver, of two passes each; steps of the nested one for each share, of one pass each.
STEPS, NESTED_STEPS = 50, 10
#: Shares of the image that the nested masks mark; those of the published configuration.
NESTED_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
#: Weight of the start in a network with one grid of tokens.
START_WEIGHT = 0.2
#: Activations with units that are silent: the kinds of :func:`~xai_align.fei.clip_gradients` that are clipped here.
SILENT = {"relu", "relu6"}
#: Consequence of masks that are not clipped.
UNGUARDED = "such masks can reroute the computation: judge the map by fills that it was not optimised for"


def both_masks(
    model: nn.Module,
    inputs: Tensor,
    questions: Sequence[Question],
    *,
    quantiles: Sequence[float] = NESTED_QUANTILES,
    n_iter: int = STEPS,
    nested_iter: int = NESTED_STEPS,
    weight: float = 0.8,
    start_weight: float | None = None,
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
    """Optimise a map for each image by both solvers, and return the weighted mean of the two and of the start.

    Args:
        model: gives logits ``[N, ...]``; in eval mode. A copy of it is run.
        inputs: images ``[N, C, H, W]``.
        questions: one for each image.
        quantiles: the shares of the image whose level sets are returned as masks, strictly increasing in (0, 1).
        n_iter: steps of the curve solver, of two forward and backward passes each.
        nested_iter: steps of the nested solver for each of five shares, of one pass each.
        weight: ``w``, the weight of the curve solver's map and of its start, in [0, 1].
        start_weight: ``v``, that of the start alone, at most ``weight``. None: 0.2 for a network that keeps one grid of
            tokens, but not more than ``weight``; 0 for others.
        clip: rule of gradient clipping in the nested solver; None: "ibm" if all activations that could be clipped are
            ReLU or ReLU6, or if ``clip_layers`` are given, else "none".
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
    chosen = with_changes(options, CurveOptions, changed, "both_masks")
    shares = check_quantiles(quantiles)
    w = check_number("weight", weight, least=0, most=1)
    check_integer("nested_iter", nested_iter)
    check_image_model(model, inputs)
    extra = forward_arguments(additional_forward_args)
    v = 0.0 if token_grid(model, inputs, extra) is None else min(START_WEIGHT, w)
    if start_weight is not None:
        v = check_number("start_weight", start_weight, least=0, most=w)
    rule, notes = _rule(model, inputs, extra, clip, clip_layers)
    given: dict[str, Any] = {
        "normalization": normalization,
        "baselines": baselines,
        "seed": seed,
        "additional_forward_args": additional_forward_args,
        "progress": progress,
        "warn": False,
    }
    curve = curve_masks(model, inputs, questions, quantiles=shares, n_iter=n_iter, options=chosen, **given)
    nested = nested_masks(
        model,
        inputs,
        questions,
        quantiles=NESTED_QUANTILES,
        n_iter=nested_iter,
        clip=rule,
        clip_layers=clip_layers,
        fills=chosen.fills,
        **given,
    )
    assert curve.start is not None
    a_curve, a_nested, a_start = map(standardised, (curve.attribution, nested.attribution, curve.start))
    a = (w - v) * a_curve + (1 - w) * a_nested + v * a_start
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
        start=curve.start,
    )


def _rule(
    model: nn.Module, inputs: Tensor, extra: tuple[Any, ...], clip: ClippingMode | None, layers: Layers | None
) -> tuple[ClippingMode, list[str]]:
    """Return the rule of clipping for the nested masks, and notes.

    Raises:
        NothingToClip: layers were given, and nothing in them can be clipped.
    """
    if clip is not None:
        return clip, []
    try:
        kinds = {call.kind for call in clippable_calls(model, inputs, extra, layers=layers)}
    except NothingToClip:
        if layers is not None:
            raise
        return "none", [f"nothing was clipped in the nested masks: the network has no activation to clip; {UNGUARDED}"]
    if layers is not None or kinds <= SILENT:
        return "ibm", []
    others = ", ".join(sorted(kinds - SILENT))
    return "none", [
        f"nothing was clipped in the nested masks: the network calls {others}, and clipping is for ReLUs; {UNGUARDED}"
    ]


def both_steps(options: Mapping[str, Any]) -> int:
    """Return the number of steps with these options, of the curve solver and of the nested one."""
    return curve_steps(options) + len(NESTED_QUANTILES) * check_integer("nested_iter", options["nested_iter"])
