"""Readout of many examples in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from xai_align._tools.batches import Batch, batches_of
from xai_align._tools.progress import progress_bar
from xai_align.features.unwrapping import network_of
from xai_align.pinet.difference import as_baselines, difference_to_mean
from xai_align.pinet.input_checks import check_independent, explained_failures, forward_arguments
from xai_align.pinet.mixture import MixedReadout, mixed
from xai_align.pinet.plain_pass import own_logits
from xai_align.pinet.readout import read_out
from xai_align.pinet.readout_layers import ReadoutLayers
from xai_align.pinet.records import Readout, as_tuple
from xai_align.question import Question, QuestionModel, as_questions, captum_target


def read_out_in_batches(
    model: Any,
    inputs: tuple[Tensor, ...],
    target: Any,
    layer: ReadoutLayers,
    *,
    additional_forward_args: Any = None,
    internal_batch_size: int | None = None,
    show_progress: bool = False,
    output: str | int | None = None,
    baselines: Any = None,
    **decomposition: Any,
) -> Readout:
    """Return one :class:`~xai_align.pinet.Readout` of all examples, running ``internal_batch_size`` at a time.

    ``decomposition`` holds the options of :func:`~xai_align.read_out` that select the decomposition. With ``baselines``
    it is the difference to their readout, or to the mean over a distribution of them
    (:func:`~xai_align.pinet.difference.difference_to_mean`).

    Raises:
        TypeError: a baseline is neither a number nor a tensor.
        ValueError: the batch size is not positive, baselines don't fit the inputs, or logits depend on how the examples
            are split.
    """
    if baselines is not None:
        options = {
            "additional_forward_args": additional_forward_args,
            "internal_batch_size": internal_batch_size,
            "show_progress": show_progress,
            "output": output,
            **decomposition,
        }
        here = read_out_in_batches(model, inputs, target, layer, **options)
        compared = as_baselines(baselines, inputs)
        there = (read_out_in_batches(model, parts, target, layer, **options) for parts in compared)
        return difference_to_mean(here, there, len(compared))
    # questions are passed on unchanged; Captum's targets become ints, tensors and lists that can be sliced
    keeps = isinstance(model, QuestionModel) and target is None
    if not keeps and not _are_questions(target):
        target = captum_target(target)
    if not keeps and inputs and isinstance(inputs[0], Tensor) and inputs[0].dim():
        as_questions(target, len(inputs[0]))  # raises if there are more or fewer targets than examples
    extra = forward_arguments(additional_forward_args)
    batches = batches_of(inputs, target, extra or None, internal_batch_size)
    readouts = []
    with progress_bar("exact readout", len(batches), shown=show_progress, timed="batch") as bar:
        for batch in batches:
            given = batch.inputs if len(batch.inputs) != 1 else batch.inputs[0]
            options = {"additional_forward_args": batch.extra, "output": output, **decomposition}
            readouts.append(read_out(model, given, batch.target, layer, **options))
            if len(batches) > 1 and len(readouts) == 1:
                other = _batch_of_another_size(inputs, extra, len(batch.inputs[0]))
                _check_unchanged_by_splitting(model, readouts[0].logits, other, extra, output)
            bar.advance()
    return joined(readouts)


def _batch_of_another_size(inputs: tuple[Tensor, ...], extra: tuple[Any, ...], size: int) -> Batch:
    """Return the first example alone, or, if batches are of one, the first two.

    A further argument for all examples may have two entries; then there are more examples in the batch, so that it is
    not taken for theirs.
    """
    lengths = {len(one) for one in extra if isinstance(one, Tensor) and one.dim()} - {len(inputs[0])}
    return batches_of(inputs, None, extra, 1 if size > 1 else next(n for n in count(2) if n not in lengths))[0]


def _check_unchanged_by_splitting(
    model: Any, logits: Tensor, other: Batch, extra: tuple[Any, ...], output: str | int | None
) -> None:
    """Raise if the first example has other logits in another batch, so that attributions depend on the batch size.

    Raises:
        ValueError: it has.
    """
    cut = other.extra or ()
    try:
        with explained_failures(other.inputs):
            again = own_logits(network_of(model)[0], other.inputs, cut, output)
        check_independent(logits[:1], again[:1])
    except (RuntimeError, ValueError) as error:
        if any(part is not whole for part, whole in zip(cut, extra, strict=True)):
            error.add_note(
                "(further arguments with as many entries as there are examples are split with them; if one belongs to "
                "all examples, add a first axis of one to it)"
            )
        raise


def joined(readouts: Sequence[Readout]) -> Readout:
    """Return one record of the examples of several readouts that use the same decomposition."""
    first = readouts[0]
    if len(readouts) == 1:
        return first
    if isinstance(first, MixedReadout):
        parts = zip(*(one.parts for one in readouts if isinstance(one, MixedReadout)), strict=True)
        return mixed([joined(part) for part in parts], first.weights)
    contributions = tuple(map(torch.cat, zip(*(as_tuple(one.contributions) for one in readouts), strict=True)))
    slopes = [as_tuple(one.slopes) for one in readouts if one.slopes is not None]
    slope = tuple(map(torch.cat, zip(*slopes, strict=True))) if len(slopes) == len(readouts) else None
    coefficients = [one.coefficients for one in readouts if one.coefficients is not None]
    return replace(
        first,
        answer=torch.cat([one.answer for one in readouts]),
        contributions=contributions if isinstance(first.contributions, tuple) else contributions[0],
        bias=torch.cat([one.bias for one in readouts]),
        prefix=torch.cat([one.prefix for one in readouts]),
        completeness_error=torch.cat([one.completeness_error for one in readouts]),
        kind="local" if all(one.kind == "local" for one in readouts) else "frozen",
        logits=torch.cat([one.logits for one in readouts]),
        placed=_joined_maps(readouts),
        coefficients=torch.cat(coefficients) if len(coefficients) == len(readouts) else None,
        around=torch.cat([one.around for one in readouts]),
        cut_off=tuple(dict.fromkeys(cut for one in readouts for cut in one.cut_off)),
        gates_flow=any(one.gates_flow for one in readouts),
        slopes=slope if slope is None or isinstance(first.slopes, tuple) else slope[0],
    )


def _joined_maps(readouts: Sequence[Readout]) -> tuple[Tensor, ...]:
    """Return placed biases per grid, with zeros where a batch has none because no gradient reached the grid."""
    grids = dict.fromkeys(placed.shape[1:] for one in readouts for placed in one.placed)

    def on(grid: torch.Size, one: Readout) -> Tensor:
        found = next((placed for placed in one.placed if placed.shape[1:] == grid), None)
        return one.answer.new_zeros(len(one.answer), *grid) if found is None else found

    return tuple(torch.cat([on(grid, one) for one in readouts]) for grid in grids)


def _are_questions(target: Any) -> bool:
    return isinstance(target, Question) or (
        isinstance(target, list | tuple) and bool(target) and all(isinstance(one, Question) for one in target)
    )
