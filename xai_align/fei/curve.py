"""Curve solver: one score map, optimised for its own insertion and deletion curves, over several fills.

This solver is ours. FEI (arXiv 2509.04588) optimises one free mask for each
quantile; here all masks are the level sets of one map ``s`` on a grid of
cells, so they are nested by construction and have exactly the wanted
area. For a share ``p`` of the image, fills ``r, r'`` and composites

    x_ins = m_p x + (1 - m_p) r        m_p = sigmoid((s - Q_p(s)) / tau)
    x_del = (1 - m_p) x + m_p r'
    L     = P(x_del) - P(x_ins)  [ + w * mean_l D_l ]

On a network that keeps one grid of tokens cells are its patches, and instead of
filling them they can be left out of the tokens
(:mod:`~xai_align.perturbation.token_dropping`).

``P`` is the probability that insertion and deletion measure, so the mean of
``L`` over ``p`` is deletion minus insertion of the map (if ``P(x)`` is a half
or more; for less probable classes ``P`` is relative to the unchanged image).
``D_l`` is the relative deviation
``|a_l(x) - a_l(x')|^2 / |a_l(x)|^2`` of a hidden layer's activations.

Measures that keep ``s`` from being an adversarial attack instead of an explanation:

* ``s`` starts from the exact readout's map and takes a few steps only;
* every step has another share, other fills and a shifted mask;
* a step follows the gradient at several scales at once, so that the map moves
  where neighbouring cells agree, and barely where they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from xai_align._tools.checks import check_choice, check_integer, check_number, check_seed
from xai_align._tools.options import with_changes
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.hidden_layers import LayerHooks
from xai_align.features.resolve_layer import layer_names
from xai_align.features.stage_layers import stage_layers
from xai_align.fei.composites import Interception, check_image_model, composite_answers
from xai_align.fei.curve_loss import CurveLoss, StageDeviations
from xai_align.fei.curve_options import CurveOptions
from xai_align.fei.curve_search import Search, check_temperatures, log_odds
from xai_align.fei.optimised import OptimisedMasks, check_quantiles, optimised_masks
from xai_align.fei.quantile_masks import level_sets, standardised
from xai_align.fei.random_fills import fixed_fill, random_fills
from xai_align.fei.removal import REMOVALS
from xai_align.fei.scales import check_scales
from xai_align.fei.solid_colours import Normalization
from xai_align.fei.starting_map import starting_map
from xai_align.perturbation.token_dropping import token_dropping
from xai_align.perturbation.token_grid import TokenGrid, token_grid
from xai_align.pinet.input_checks import forward_arguments
from xai_align.question import Question

#: Steps, of two passes each.
STEPS = 50
#: Cells along the shorter side of the image; masks are shifted by up to half a cell.
CELLS = 28


@restores_thread_state
def curve_masks(
    model: nn.Module,
    inputs: Tensor,
    questions: Sequence[Question],
    *,
    quantiles: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    n_iter: int = STEPS,
    intercept: Interception | None = None,
    normalization: Normalization | None = None,
    baselines: Any = None,
    seed: int = 0,
    options: CurveOptions | None = None,
    additional_forward_args: Any = None,
    progress: Callable[[int], None] | None = None,
    warn: bool = True,
    **changed: Any,
) -> OptimisedMasks:
    """Optimise a map for each image for its own insertion and deletion curves.

    Args:
        model: gives logits ``[N, ...]``; in eval mode. A copy of it is run.
        inputs: images ``[N, C, H, W]``.
        questions: one for each image.
        quantiles: the shares of the image whose level sets are returned as masks, strictly increasing in (0, 1).
        n_iter: steps, of two forward and backward passes each.
        intercept: change of the gradients inside the network, such as clipping; None: they are the network's.
        normalization: ``(mean, std)`` of the images, for solid colours.
        baselines: one fill for all steps instead of random ones: a number or a tensor ``[N, C, H, W]``, or a
            function ``(inputs, step, generator) -> Tensor``, called for both composites of each step.
        seed: seed of the first search; further searches use the following seeds.
        additional_forward_args: further arguments of the model; tensors of the batch's length are repeated for
            the composites.
        progress: called with 1 after each step.
        warn: whether to issue warnings about the result.
        options: further options; None: the defaults of :class:`~xai_align.fei.CurveOptions`.
        **changed: single fields of the options, e.g. ``restarts=3``.

    Returns:
        The maps as ``attribution`` and their level sets as ``masks``. ``losses[:, t]`` is ``L`` at the share and
        fills of step ``t``, and fluctuates with them.

    Raises:
        TypeError, ValueError: the model, the inputs or an option is invalid.

    Warns:
        TieWarning: many pixels share their score.
        UnchangedAnswer: no composite changed the answer about an image.
    """
    chosen = with_changes(options, CurveOptions, changed, "curve_masks")
    check_image_model(model, inputs)
    shares = check_quantiles(quantiles)
    check_seed(seed)
    extra = forward_arguments(additional_forward_args)
    removal = check_choice("removal", chosen.removal, REMOVALS)
    patches = token_grid(model, inputs, extra)
    dropping = None if removal == "fill" else token_dropping(model, inputs, extra)
    size = (inputs.shape[2], inputs.shape[3])
    cells = _cells(chosen.mask_size, size, patches)
    of_patches = patches is not None and cells == (patches.rows, patches.columns)
    unit = _patch(size, patches) if of_patches and patches is not None else None
    loss = CurveLoss(
        shift=_shift(chosen.shift, size, unit),
        # activations of a mirrored composite have no counterpart in the reference of a clipping
        mirrors=check_choice("mirror", chosen.mirror, ("never", "random")) == "random" and intercept is None,
        deviation_weight=check_number("deviation_weight", chosen.deviation_weight),
        removal=chosen.removal,
        upsampling="nearest" if of_patches else "bilinear",
        unit=unit or 1,
    )
    search = Search(
        n_iter=check_integer("n_iter", n_iter),
        lr=check_number("lr", chosen.lr, above=0),
        temperatures=check_temperatures(chosen.temperatures),
        scales=check_scales(chosen.scales),
        stable_at=None if chosen.stable_at is None else check_number("stable_at", chosen.stable_at, above=0, most=1),
        loss=loss,
    )
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        first = starting_map(
            model,
            inputs,
            questions,
            "default readout" if patches is not None and _is(chosen.start, "readout") else chosen.start,
            layer=chosen.start_layer,
            cells=cells,
            additional_forward_args=additional_forward_args,
        )
        asked = stack.enter_context(
            composite_answers(
                model,
                inputs,
                [log_odds(question) for question in questions],
                additional_forward_args=additional_forward_args,
                intercept=intercept,
            )
        )
        if dropping is not None:
            dropping.on(asked.model)
        x = asked.inputs
        stages = None
        if loss.deviation_weight:
            named = layer_names(model, chosen.deviation_layers)
            with asked.autocast():
                layers = stage_layers(model, inputs, asked.extra) if named is None else tuple(named)
            if layers:
                stages = StageDeviations.of(LayerHooks.on(asked.model, layers), asked)
        found = []
        for restart in range(check_integer("restarts", chosen.restarts)):
            generator = torch.Generator().manual_seed(seed + restart)
            fill = (
                random_fills(x, chosen.fills, generator, normalization=normalization)
                if baselines is None
                else fixed_fill(x, baselines, seed + restart)
            )
            found.append(search.run(asked, first, fill, stages, generator, progress or (lambda done: None)))
    scores = standardised(torch.stack([scores for scores, _ in found]).mean(0))
    losses = torch.cat([losses for _, losses in found], 1)
    on_image, start = (interpolate(one[:, None], x.shape[2:], mode="bilinear")[:, 0] for one in (scores, first))
    return optimised_masks(
        on_image,
        level_sets(on_image, shares),
        losses,
        quantiles=shares,
        clipped=asked.clipped,
        passes=2 * losses.shape[1],
        answer_ranges=asked.span.width,
        notes=[
            *([] if removal == "drop" else [fill.note]),
            *_LEFT_OUT[removal],
            *([] if stages or not loss.deviation_weight else [_NO_STAGES]),
        ],
        warn=warn,
        cells=scores,
        start=start,
    )


def curve_steps(options: Mapping[str, Any]) -> int:
    """Return the number of steps with these options: ``n_iter`` for each search."""
    return check_integer("n_iter", options["n_iter"]) * check_integer("restarts", options["restarts"])


_LEFT_OUT = {
    "fill": [],
    "drop": ["hidden patches were left out of the tokens, and no fill was used"],
    "either": ["half of the composites, drawn at random, had hidden patches left out of the tokens and no fill"],
}
_NO_STAGES = (
    "no hidden layer with feature maps was found, so hidden deviations were not penalised; name layers with "
    "deviation_layers"
)


def _cells(mask_size: int | None, image: tuple[int, int], patches: TokenGrid | None) -> tuple[int, int]:
    """Return the rows and columns of cells: a network's patches, or nearly square ones along the shorter side."""
    if mask_size is None and patches is not None:
        return patches.rows, patches.columns
    shorter = min(image)
    if image[0] * image[1] == 1:
        raise ValueError("the images have one pixel, and there is nothing to rank; give larger images")
    count = min(CELLS, shorter) if mask_size is None else check_integer("mask_size", mask_size, least=2)
    if count > shorter:
        raise ValueError(
            f"mask_size is {count}, the images have {image[0]} x {image[1]} pixels; give {shorter} or less"
        )
    return round(image[0] * count / shorter), round(image[1] * count / shorter)


def _shift(shift: int | None, image: tuple[int, int], patch: int | None) -> int:
    """Return the maximum shift of masks; masks of patches stay on them unless a shift of whole ones is given."""
    if shift is not None:
        if patch is not None and check_integer("shift", shift, least=0) % patch:
            raise ValueError(
                f"shift is {shift} pixels, and the masks are of patches of {patch}; give a multiple of {patch}, or "
                "other cells with mask_size"
            )
        if check_integer("shift", shift, least=0) >= min(image):
            raise ValueError(
                f"shift is {shift} pixels, and the images have {image[0]} x {image[1]}; give {min(image) - 1} or less, "
                "as masks that are shifted out of the image rank nothing"
            )
        return shift
    return min(image) // (2 * CELLS) if patch is None else 0


def _patch(image: tuple[int, int], patches: TokenGrid) -> int:
    """Return the shorter side of a patch, in pixels."""
    return max(1, min(image[0] // patches.rows, image[1] // patches.columns))


def _is(start: Any, name: str) -> bool:
    return isinstance(start, str) and start == name
