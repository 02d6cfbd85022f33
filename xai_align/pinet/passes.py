"""Decompositions at several layers, each checked against the plain model, in a precision in which they add up."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from xai_align._tools.replica import LOW_PRECISION
from xai_align.pinet.completeness import LOGITS, CompletenessError, check_close
from xai_align.pinet.decomposition import Decomposition
from xai_align.pinet.plain_pass import check_copy, own_logits
from xai_align.pinet.precision import Precision
from xai_align.pinet.reading import Reading
from xai_align.pinet.request import Request, is_own_decomposition
from xai_align.pinet.rounding import SHRINKS_TO, total_of, wide
from xai_align.pinet.second_look_decomposition import check_one_batch


def read_layers(request: Request) -> list[tuple[Decomposition, bool]]:
    """Return, for each layer, its decomposition and whether that is local.

    A PiNet's own sum is used directly. A layer with a split is run separately, by its head alone if that is affine.
    All others with the same rule share one forward and one backward pass. Everything runs on a replica of the model,
    in float32 if the model's own precision is lower.

    Raises:
        CompletenessError: logits or sums differ from the plain model's; the message names what differs.
    """
    with torch.inference_mode(False):
        low = any(_is_low(x) for x in request.inputs) or _is_autocast_on(request.inputs[0])
        low = low or any(_is_low(parameter) for parameter in request.model.parameters())
        for layer in request.layers:
            if is_own_decomposition(request.model, layer):
                check_one_batch(request.model, request.inputs, request.extra)
        reading = Reading(request, Precision(torch.float32 if low else None, own=not low))
        found = reading.decompositions()
        if not low and any(decomposition.coarsest for decomposition, _ in found):
            # the network works in half precision inside, so coefficients and checks are those of a copy that does not
            low, reading = True, Reading(request, Precision(torch.float32, own=False, replaces_casts=True))
            found = reading.decompositions()
        if reading.checks.missed:
            if request.inputs[0].device.type == "mps":  # no float64 for the decisive check
                raise CompletenessError(reading.checks.complaint())
            found = _decided_in_float64(request, reading, found)
        return _with_own_logits(request, found) if low else found


def _decided_in_float64(
    request: Request, reading: Reading, found: list[tuple[Decomposition, bool]]
) -> list[tuple[Decomposition, bool]]:
    """Return the decompositions computed in float64, if rounding explains the differences found."""
    check_copy(request)
    checks, precision = reading.checks, reading.precision
    try:
        again = Reading(
            request, Precision(torch.float64, every=True, own=False, replaces_casts=precision.replaces_casts)
        )
        finer = again.decompositions()
    except Exception as error:
        raise CompletenessError(
            f"{checks.complaint()} (float64 cannot decide whether it is rounding: {error})"
        ) from error
    # a plain pass with replaced casts decides nothing about the model's own
    undecided = precision.own and LOGITS in checks.missed and again.precision.replaces_casts
    if undecided or not all(_shrinks(checks.worst[check], again.checks.worst[check]) for check in again.checks.missed):
        raise CompletenessError(checks.complaint())
    return [
        (_rounded_to(decomposition, before.answer.dtype), local)
        for (decomposition, local), (before, _) in zip(finer, found, strict=True)
    ]


def _shrinks(difference: float, finer: float) -> bool:
    """Return whether a difference shrinks in float64 as rounding does; NaN, infinity and other shapes never do."""
    return isfinite(difference) and isfinite(finer) and finer <= SHRINKS_TO * difference


def _with_own_logits(request: Request, found: list[tuple[Decomposition, bool]]) -> list[tuple[Decomposition, bool]]:
    """Return the decompositions with the model's logits in its own, lower precision, which must be close.

    Raises:
        CompletenessError: they are not close.
    """
    own = own_logits(request.model, request.inputs, request.extra, request.output)
    for decomposition, _ in found:
        check_close(own, decomposition.logits, decomposition.operations)
    return [(replace(decomposition, logits=own), local) for decomposition, local in found]


def _rounded_to(decomposition: Decomposition, dtype: torch.dtype) -> Decomposition:
    """Return a float64 decomposition in the model's dtype, with the error of the rounded parts."""

    def to(x: Tensor) -> Tensor:
        return x.to(dtype)

    rounded = replace(
        decomposition,
        logits=to(decomposition.logits),
        answer=to(decomposition.answer),
        contributions=tuple(map(to, decomposition.contributions)),
        bias=to(decomposition.bias),
        around=to(decomposition.around),
        placed=tuple(map(to, decomposition.placed)),
        coefficients=None if decomposition.coefficients is None else to(decomposition.coefficients),
        slopes=None if decomposition.slopes is None else tuple(map(to, decomposition.slopes)),
    )
    error = total_of((*rounded.contributions, *rounded.placed))
    return replace(rounded, error=error + wide(rounded.around) + wide(rounded.bias) - wide(rounded.answer))


def _is_low(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype in LOW_PRECISION


def _is_autocast_on(x: Any) -> bool:
    return isinstance(x, Tensor) and torch.is_autocast_enabled(x.device.type)
