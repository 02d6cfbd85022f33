"""Entry point of FEI: masks by name of the solver, for any number of images and any kind of question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from xai_align._tools.checks import check_choice
from xai_align._tools.progress import progress_bar
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.resolve_layer import Layers
from xai_align.fei.both import both_masks, both_steps
from xai_align.fei.curve import curve_masks, curve_steps
from xai_align.fei.micro_batches import micro_batches
from xai_align.fei.optimised import OptimisedMasks, optimised_masks
from xai_align.fei.published.gradient_clipping import ClippingMode, clipped_copy, found_layers
from xai_align.fei.published.nested import nested_masks, nested_steps
from xai_align.fei.solver import Solver, seeded


def _curve_masks(
    model: nn.Module,
    *arguments: Any,
    clip: ClippingMode = "none",
    clip_layers: Layers | None = None,
    **options: Any,
) -> OptimisedMasks:
    """Run the curve solver, with gradients clipped if a rule is given."""
    if clip != "none":
        return curve_masks(model, *arguments, intercept=partial(clipped_copy, mode=clip, layers=clip_layers), **options)
    if clip_layers is None:
        return curve_masks(model, *arguments, **options)
    found_layers(model, model, clip_layers)  # raises if a layer is missing
    found = curve_masks(model, *arguments, **options)
    return replace(found, notes=(*found.notes, "clip is 'none', so nothing was clipped in clip_layers"))


_SOLVERS = {
    "curve": Solver.of(curve_masks, curve_steps, run=_curve_masks, clip="none", clip_layers=None),
    "nested": Solver.of(nested_masks, nested_steps),
    "both": Solver.of(both_masks, both_steps),
}


@restores_thread_state
def optimize_masks(
    model: nn.Module,
    inputs: Tensor,
    question: Any = None,
    *,
    solver: str = "curve",
    internal_batch_size: int | None = None,
    generator: torch.Generator | None = None,
    show_progress: bool = False,
    additional_forward_args: Any = None,
    **options: Any,
) -> OptimisedMasks:
    """Optimise a map of the evidence for an answer, and masks that mark a few shares of the image.

    The model is not changed. Except for rounding, an image's masks depend neither on the rest of the batch nor on
    the number of images processed at a time.

    Args:
        model: in eval mode, gives logits ``[N, ...]``; may be compiled, data-parallel or a ``QuestionModel``.
        inputs: images ``[N, C, H, W]``, floating, on the model's device.
        question: a :class:`~xai_align.Question`, one for each image, or any target that Captum takes. None:
            why the predicted class?
        solver: "curve": one map, optimised for its own insertion and deletion curves, see
            :func:`~xai_align.fei.curve.curve_masks` (ours, fast); "nested": a mask for each share, one after
            another, as published, see :func:`~xai_align.fei.published.nested.nested_masks`; "both": the mean of their
            maps, see :func:`~xai_align.fei.both.both_masks`.
        internal_batch_size: number of images processed at a time; None: 8. It bounds the memory. Kernels round
            differently in batches of another size, and a long search in float32 amplifies that; with 1 the map of an
            image does not depend on its batch.
        generator: one number is drawn from it, the seed of all random numbers. None: ``seed``, or 0.
        show_progress: show a progress bar over all steps.
        additional_forward_args: further arguments of the model; tensors of length ``N`` are split with the images.
        **options: options of the solver, e.g. ``quantiles``, ``n_iter``, ``clip``, ``normalization``, ``baselines``,
            ``seed``, and the fields of its :class:`~xai_align.fei.CurveOptions` or
            :class:`~xai_align.fei.NestedOptions`, singly or as ``options=``. Tensors ``[N, ...]`` among them are
            split with the images.

    Returns:
        The record for all images. ``losses`` end in NaN for images whose batch needed fewer steps than others.

    Raises:
        TypeError: the solver has no such option.
        TargetError: the question does not fit the images or the output.
        NothingToClip: gradients are to be clipped and the model has no activation to clip; use ``clip="none"``.
        ValueError: the model, the inputs or an option is invalid.

    Warns:
        AreaMissed: a mask's area differs from its quantile by more than 0.05.
        UnchangedAnswer: no composite changed the answer about an image.
        TieWarning: many pixels of the map have equal values.

    Source: FEI, Zhang & McMillan (arXiv 2509.04588).

    Example::

        found = optimize_masks(model, images, Question.why_not(281, 282), normalization=(mean, std))
        found.attribution  # [N, H, W]
    """
    chosen, options = find_solver(solver), solver_options(solver, options)
    network, batches = micro_batches(
        model,
        inputs,
        question,
        internal_batch_size=internal_batch_size,
        additional_forward_args=additional_forward_args,
        options=seeded(options, generator),
    )
    records = []
    steps = len(batches) * chosen.steps({**chosen.defaults, **options})
    with progress_bar("optimising masks", steps, shown=show_progress, timed="step") as bar:
        for batch in batches:
            with batch.noted_in_errors():
                records.append(
                    chosen.run(
                        network,
                        batch.inputs,
                        batch.questions,
                        progress=bar.advance,
                        # warnings about the examples are issued for all batches together, when they are joined
                        warn=len(batches) == 1,
                        **batch.options,
                    )
                )
    return records[0] if len(records) == 1 else _joined(records)


def find_solver(name: str) -> Solver:
    """Return the solver of this name.

    Raises:
        ValueError: there is none.
    """
    return _SOLVERS[check_choice("solver", name, _SOLVERS)]


def solver_options(solver: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the solver of this name as single values, those of a record ``options=`` among them.

    Raises:
        TypeError: the solver has no such option, or the record is another solver's.
        ValueError: there is no such solver.
    """
    chosen = find_solver(solver)
    for option in options:
        of = [name for name, other in _SOLVERS.items() if option in other.defaults]
        if of and solver not in of:
            raise TypeError(f"solver='{solver}' has no option '{option}'; solver='{of[0]}' has it")
    return chosen.single_options(options)


def _joined(records: Sequence[OptimisedMasks]) -> OptimisedMasks:
    """Join the records of all images; warnings use the caller's numbering of examples."""
    first, steps = records[0], [record.losses.shape[1] for record in records]
    cells = [record.cells for record in records if record.cells is not None]
    starts = [record.start for record in records if record.start is not None]
    whole = optimised_masks(
        torch.cat([record.attribution for record in records]),
        torch.cat([record.masks for record in records]),
        torch.cat([record.losses[:, : min(steps)] for record in records]),
        quantiles=first.quantiles,
        clipped=first.clipped,
        passes=max(record.passes for record in records),
        answer_ranges=torch.cat([record.answer_ranges for record in records]),
        notes=first.notes,
        cells=torch.cat(cells) if cells else None,
        start=torch.cat(starts) if starts else None,
    )
    losses = [pad(record.losses, (0, max(steps) - record.losses.shape[1]), value=torch.nan) for record in records]
    return replace(whole, losses=torch.cat(losses))
