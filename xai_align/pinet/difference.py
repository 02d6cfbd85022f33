"""Difference of two readouts: why the answer to an input is not that to another input, its baseline.

``answer = F(x) - F(b)``, and with ``F(x) = sum(c(x)) + bias(x)``, and so for ``b``,

    answer = sum(c(x) - c(b)) + (bias(x) - bias(b)).

The gates of ``x`` and ``b`` differ, and so do their biases: the second term is not zero, and it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from xai_align.pinet.mixture import MixedReadout, mixed
from xai_align.pinet.records import Readout, as_tuple
from xai_align.pinet.rounding import total_of, wide


def difference(found: Readout, baseline: Readout) -> Readout:
    """Return the readout of the answers of ``found`` minus those of ``baseline``, at the same feature space.

    ``logits`` stay those of ``found``. Coefficients are left out: those of two inputs have no common meaning.

    Example::

        readout = difference(read_out(model, images, 281), read_out(model, 0 * images, 281))
        readout.total + readout.bias  # [2], equals readout.answer
    """
    if isinstance(found, MixedReadout) and isinstance(baseline, MixedReadout):
        parts = [difference(one, other) for one, other in zip(found.parts, baseline.parts, strict=True)]
        return mixed(parts, found.weights)
    pairs = zip(as_tuple(found.contributions), as_tuple(baseline.contributions), strict=True)
    contributions = tuple(c_x - c_b for c_x, c_b in pairs)
    placed = _differences(found.placed, baseline.placed)
    answer, bias = found.answer - baseline.answer, found.bias - baseline.bias
    around = found.around - baseline.around
    return replace(
        found,
        answer=answer,
        contributions=contributions if isinstance(found.contributions, tuple) else contributions[0],
        bias=bias,
        prefix=found.prefix - baseline.prefix,
        around=around,
        completeness_error=total_of((*contributions, *placed)) + wide(around) + wide(bias) - wide(answer),
        kind="local" if found.kind == baseline.kind == "local" else "frozen",
        placed=placed,
        coefficients=None,
        cut_off=tuple(dict.fromkeys((*found.cut_off, *baseline.cut_off))),
        gates_flow=found.gates_flow or baseline.gates_flow,
    )


def as_baselines(given: Any, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return baselines in the shapes of the inputs, from Captum's forms: a number or a tensor for each input.

    Raises:
        TypeError: a baseline is neither a number nor a tensor.
        ValueError: their number or a shape doesn't fit the inputs.
    """
    parts = given if isinstance(given, tuple) else (given,)
    if len(parts) != len(inputs):
        raise ValueError(f"{len(parts)} baselines for {len(inputs)} inputs; give one for each")
    return tuple(_like(part, x) for part, x in zip(parts, inputs, strict=True))


def _like(given: Any, x: Tensor) -> Tensor:
    if isinstance(given, int | float) and not isinstance(given, bool):
        return torch.full_like(x, given)
    if not isinstance(given, Tensor):
        hint = "; for a distribution of baselines make one call for each" * callable(given)
        raise TypeError(f"a baseline is a number or a tensor like its input, got {type(given).__name__}{hint}")
    if given.dim() != x.dim() or given.shape[1:] != x.shape[1:] or len(given) not in (1, len(x)):
        raise ValueError(
            f"the baseline has shape {list(given.shape)}, the inputs have {list(x.shape)}; give one example or as "
            "many, and for a distribution of baselines one call for each"
        )
    return torch.empty_like(x).copy_(given.detach())  # in the memory format of the inputs


def _differences(found: tuple[Tensor, ...], baseline: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the differences of placed biases on each grid; a readout has none on a grid that no gradient reached."""
    here, there = ({one.shape: one for one in maps} for maps in (found, baseline))
    return tuple(
        here[shape] - there[shape]
        if shape in here and shape in there
        else here[shape]
        if shape in here
        else -there[shape]
        for shape in dict.fromkeys((*here, *there))
    )
