"""The exact decomposition of an answer at one layer.

With its gates held, what follows a layer is affine in the layer's output ``z``, so that

    answer = sum(beta * z) + bias,     beta = d answer / dz.

(Placed biases are terms of the sum, and evidence that bypasses the layer is one more term.)

Four steps. The network runs once, with every operation behind ``z`` rewritten as one that is linear in ``z`` and has
the same value, its coefficient saved (:mod:`~xai_align.pinet.gates`). One backward pass gives ``beta``. The bias is the
output of the held gates at ``z = 0``; it is found by running them again and not from the answer. So the sum, compared
with the answer, is a check and not an identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from xai_align.features.routes import Route
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.gates.cut_off import CutOff
from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.placed_biases import BiasesApart
from xai_align.pinet.recording import Recording, record, replay_from_zero
from xai_align.pinet.recording_mode import RecordingMode
from xai_align.pinet.rounding import answer_of, example_sums, misses, total_of, wide
from xai_align.question import Question


def decompose(
    gates: FrozenGates,
    mode: RecordingMode,
    route: Route,
    space: FeatureSpace,
    questions: Sequence[Question],
    biases: BiasesApart,
) -> Decomposition:
    """Decompose the answers at one layer: a forward pass with gates saved, one gradient, the constant.

    Args:
        gates: the interception, with nothing recorded yet.
        mode: how the pass is recorded.
        route: runs the network and gives access to ``z``.
        space: the layer.
        questions: one for each example.
        biases: the treatment of biases behind the layer; :class:`BiasesApart` sums them into one number.

    Raises:
        NothingFlows: the answer does not depend on the layer.
    """
    found = record(gates, route, [space], questions, biases, copied=mode.copied)  # z, and beta = d answer / dz
    noted = notes_of(gates, mode)
    biases.start_replay(0)
    # blind: the network refused inputs of zeros, so evidence around the layer could not be seen
    logits_at_zero, _, blind = replay_from_zero(gates, route, 0, [0])
    contributions = contributions_of(found, 0)
    bias = answer_of(found.weights, logits_at_zero)
    decomposition = decomposition_of(found.logits, found.weights, found.rest, contributions, bias, biases.of(0))
    return replace(decomposition, slopes=slopes_of(found, 0), blind=blind, coarsest=gates.coarsest, **noted)


def contributions_of(found: Recording, number: int) -> tuple[Tensor, ...]:
    """Return ``beta * z`` at one of the layers, zeros where no gradient arrives."""
    return tuple(contribution(z, beta) for z, beta in zip(found.z[number], found.beta[number], strict=True))


def contribution(z: Tensor, beta: Tensor | None) -> Tensor:
    """Return ``beta * z`` of one tensor."""
    return torch.zeros_like(z) if beta is None else z * beta


def slopes_of(found: Recording, number: int) -> tuple[Tensor, ...]:
    """Return ``beta`` at one of the layers, zeros where no gradient arrives."""
    pairs = zip(found.z[number], found.beta[number], strict=True)
    return tuple(torch.zeros_like(z) if beta is None else beta for z, beta in pairs)


def notes_of(gates: FrozenGates, mode: RecordingMode) -> dict[str, Any]:
    """Return the interception's notes on the recording as fields of :class:`Decomposition`."""
    return {"cut_off": gates.cut_off, "operations": gates.operations, "mode": mode}


@dataclass(frozen=True)
class Decomposition:
    """Decomposition ``answer = sum(contributions) + sum(placed) + around + bias``.

    Each is ``[N]`` except the contributions, which have the shapes of ``z``, and placed biases, maps ``[N, h, w]``.
    A PiNet's own decomposition also holds its coefficients ``pi``, ``[N, C or 1, h, w]``.

    Attributes:
        around: evidence from the input that bypasses the feature space.
        error: the sum minus the answer, in float64 where the device supports it.
        cut_off: evidence that the network detached from the graph.
        mode: how the pass was recorded.
        operations: the number of recorded operations; the rounding error grows with it.
        blind: whether the replay could not detect evidence that bypasses the space.
        slopes: ``beta``, in the shapes of ``z``; None for a PiNet's own sum.
        coarsest: the half precision in which the network itself computes part of the pass, which limits the checks.
    """

    logits: Tensor
    answer: Tensor
    contributions: tuple[Tensor, ...]
    bias: Tensor
    error: Tensor
    around: Tensor
    placed: tuple[Tensor, ...] = ()
    coefficients: Tensor | None = None
    cut_off: tuple[CutOff, ...] = ()
    mode: RecordingMode = field(default_factory=RecordingMode)
    operations: int = 1
    coarsest: torch.dtype | None = None
    blind: bool = False
    slopes: tuple[Tensor, ...] | None = None


def decomposition_of(
    logits: Tensor,
    weights: Tensor,
    rest: Tensor,
    contributions: tuple[Tensor, ...],
    at_zero: Tensor,
    placed: tuple[Tensor, ...] = (),
    coefficients: Tensor | None = None,
    around: Tensor | None = None,
) -> Decomposition:
    """Return the decomposition of ``sum_k w_k z_k + rest``, whose part without coordinates is ``at_zero + rest``."""
    answer, bias = answer_of(weights, logits) + rest, at_zero + rest
    around = torch.zeros_like(bias) if around is None else around.to(bias)
    error = total_of((*contributions, *placed)) + wide(around) + wide(bias) - wide(answer)
    return Decomposition(logits, answer, contributions, bias, error, around, placed, coefficients)


def size_of(decomposition: Decomposition) -> Tensor:
    """Return ``[N]``, the root of the sum of squares of all terms: the scale of the sum's rounding error."""
    parts = [example_sums(wide(part).square()) for part in (*decomposition.contributions, *decomposition.placed)]
    for one in (decomposition.bias, decomposition.answer, decomposition.around):
        parts.append(wide(one).square())
    return torch.stack(parts).sum(0).sqrt()


def is_complete(decomposition: Decomposition) -> Tensor:
    """Return ``[N]``, whether the sum equals the answer within rounding."""
    return ~misses(
        decomposition.error,
        size_of(decomposition),
        decomposition.operations,
        decomposition.coarsest or decomposition.answer.dtype,
    )
