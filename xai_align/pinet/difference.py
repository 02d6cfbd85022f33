"""Difference of two readouts: why an input's answer differs from that for a baseline, or for several.

``answer = F(x) - F(b)``, and with ``F(x) = sum(c(x)) + bias(x)``, and so for ``b``,

    answer = sum(c(x) - c(b)) + (bias(x) - bias(b)).

The gates of ``x`` and ``b`` differ, and so do their biases: the second term is not zero, and it is kept. With a
distribution of baselines, ``F(b)``, ``c(b)`` and ``bias(b)`` are means over it, and the sum is as exact.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
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
    return _combined(found, baseline, 1, -1)


def difference_to_mean(found: Readout, baselines: Iterable[Readout], count: int) -> Readout:
    """Return the readout of the answers of ``found`` minus the mean of those of ``count`` baselines.

    Example::

        black, white = read_out(model, 0 * images, 281), read_out(model, 0 * images + 1, 281)
        readout = difference_to_mean(read_out(model, images, 281), [black, white], 2)
    """
    for baseline in baselines:
        found = _combined(found, baseline, 1, -1 / count)
    return found


def _combined(found: Readout, other: Readout, a: float, b: float) -> Readout:
    """Return the readout of ``a F(x) + b F(y)``."""
    if isinstance(found, MixedReadout) and isinstance(other, MixedReadout):
        parts = [_combined(one, two, a, b) for one, two in zip(found.parts, other.parts, strict=True)]
        return mixed(parts, found.weights)
    pairs = zip(as_tuple(found.contributions), as_tuple(other.contributions), strict=True)
    contributions = tuple(a * c_x + b * c_y for c_x, c_y in pairs)
    placed = _placed_sums(found.placed, other.placed, a, b)
    answer, bias = a * found.answer + b * other.answer, a * found.bias + b * other.bias
    around = a * found.around + b * other.around
    return replace(
        found,
        answer=answer,
        contributions=contributions if isinstance(found.contributions, tuple) else contributions[0],
        bias=bias,
        prefix=a * found.prefix + b * other.prefix,
        around=around,
        completeness_error=total_of((*contributions, *placed)) + wide(around) + wide(bias) - wide(answer),
        kind="local" if found.kind == other.kind == "local" else "frozen",
        placed=placed,
        coefficients=None,
        slopes=None,
        cut_off=tuple(dict.fromkeys((*found.cut_off, *other.cut_off))),
        gates_flow=found.gates_flow or other.gates_flow,
    )


def as_baselines(given: Any, inputs: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Return baselines in the shapes of the inputs, from Captum's forms; several for a distribution of them.

    A number, one example, or as many examples as inputs are one baseline for each input. Any other number of examples
    is a distribution, and so is all that a function returns, of the inputs or of nothing: every input is compared with
    every example of it.

    Raises:
        TypeError: a baseline is neither a number nor a tensor or array, nor a function that returns them.
        ValueError: their number or a shape doesn't fit the inputs, or they hold NaN or infinity.
    """
    drawn = callable(given) and not isinstance(given, Tensor)
    if drawn:
        given = _called(given, inputs)
    parts = given if isinstance(given, tuple) else (given,)
    if len(parts) != len(inputs):
        raise ValueError(f"{len(parts)} baselines for {len(inputs)} inputs; give one for each")
    parts = tuple(_checked(part, x) for part, x in zip(parts, inputs, strict=True))
    if not all(bool(torch.isfinite(torch.as_tensor(part)).all()) for part in parts):
        raise ValueError("the baselines hold NaN or infinity; give finite values")
    rows = {len(part) for part in parts if isinstance(part, Tensor)} - {1}
    if not drawn and rows <= {len(inputs[0])}:
        return [tuple(_like(part, x) for part, x in zip(parts, inputs, strict=True))]
    if len(rows) > 1:
        raise ValueError(
            f"a distribution of baselines has as many examples for each input, or one; got {sorted(rows)} for "
            f"{len(inputs[0])} inputs"
        )
    count = max(rows, default=1)
    if not count:
        raise ValueError("a distribution of baselines without an example")
    return [
        tuple(_like(_row(part, number), x) for part, x in zip(parts, inputs, strict=True)) for number in range(count)
    ]


def _called(function: Any, inputs: Sequence[Tensor]) -> Any:
    """Call a function of baselines, with the inputs if it takes an argument, as Captum's methods do."""
    takes = bool(inspect.signature(function).parameters)
    return function(tuple(inputs) if len(inputs) > 1 else inputs[0]) if takes else function()


def _checked(given: Any, x: Tensor) -> Tensor | float:
    if isinstance(given, np.ndarray):
        given = torch.from_numpy(np.array(given, order="C"))  # a view may have strides that PyTorch does not take
    if isinstance(given, int | float | np.integer | np.floating) and not isinstance(given, bool):
        return float(given)
    if not isinstance(given, Tensor):
        raise TypeError(f"a baseline is a number, or a tensor or array like its input, got {type(given).__name__}")
    if given.dim() == 0:
        return float(given)
    if given.dim() != x.dim() or given.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"the baseline has shape {list(given.shape)}, the inputs have {list(x.shape)}; give one example, as many, "
            "or any number of examples as a distribution of baselines"
        )
    return given.detach()


def _row(given: Tensor | float, number: int) -> Tensor | float:
    return given[number : number + 1] if isinstance(given, Tensor) and len(given) > 1 else given


def _like(given: Tensor | float, x: Tensor) -> Tensor:
    if not isinstance(given, Tensor):
        return torch.full_like(x, given)
    return torch.empty_like(x).copy_(given)  # in the memory format of the inputs


def _placed_sums(found: tuple[Tensor, ...], other: tuple[Tensor, ...], a: float, b: float) -> tuple[Tensor, ...]:
    """Return the sums of placed biases on each grid; a readout has none on a grid that no gradient reached."""
    here, there = ({one.shape: one for one in maps} for maps in (found, other))
    return tuple(
        a * here[shape] + b * there[shape]
        if shape in here and shape in there
        else a * here[shape]
        if shape in here
        else b * there[shape]
        for shape in dict.fromkeys((*here, *there))
    )
