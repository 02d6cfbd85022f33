"""The exact decomposition of an answer at one layer.

With its gates held, what follows a layer is affine in the layer's output ``z``, so that

    answer = sum(beta * z) + bias,     beta = d answer / dz.

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
from xai_align.pinet.gates.frozen_gates import CutOff, FrozenGates
from xai_align.pinet.gates.placed_biases import BiasesApart
from xai_align.pinet.manner import Manner
from xai_align.pinet.recording import Recording, record, replay_from_zero
from xai_align.pinet.rounding import answer_of, example_sums, misses, total_of, wide
from xai_align.question import Question


def decompose(
    gates: FrozenGates,
    manner: Manner,
    route: Route,
    space: FeatureSpace,
    questions: Sequence[Question],
    biases: BiasesApart,
) -> Account:
    """Decompose the answers at one layer: forward with gates saved, one gradient, the constant.

    Args:
        gates: the interception, empty.
        manner: how the pass is recorded.
        route: runs the network with ``z`` in hand.
        space: the layer.
        questions: one for each example.
        biases: what listens to the biases behind the layer; :class:`BiasesApart` leaves them in one number.

    Raises:
        NothingFlows: the answer does not depend on the layer.
    """
    found = record(gates, route, [space], questions, biases, copied=manner.copied)  # z, and beta = d answer / dz
    noted = notes_of(gates, manner)
    biases.start_replay(0)
    logits_at_zero, _, blind = replay_from_zero(gates, route, 0, [0])
    contributions = contributions_of(found, 0)
    bias = answer_of(found.weights, logits_at_zero)
    account = account_of(found.logits, found.weights, found.rest, contributions, bias, biases.of(0))
    return replace(account, blind=blind, coarsest=gates.coarsest, **noted)


def contributions_of(found: Recording, number: int) -> tuple[Tensor, ...]:
    """Return ``beta * z`` at one of the layers; zeros where nothing comes back."""
    return tuple(contribution(z, beta) for z, beta in zip(found.z[number], found.beta[number], strict=True))


def contribution(z: Tensor, beta: Tensor | None) -> Tensor:
    """Return ``beta * z`` of one tensor."""
    return torch.zeros_like(z) if beta is None else z * beta


def notes_of(gates: FrozenGates, manner: Manner) -> dict[str, Any]:
    """Return what the interception noted while it recorded, as fields of an account."""
    return {"cut_off": gates.cut_off, "operations": gates.operations, "manner": manner}


@dataclass(frozen=True)
class Account:
    """``answer = sum(contributions) + sum(placed) + around + bias``.

    Each is ``[N]`` but the contributions, which have the shapes of ``z``, and placed biases, maps ``[N, h, w]``.
    A PiNet's account of itself also holds its coefficients ``pi``, ``[N, C or 1, h, w]``.

    Attributes:
        around: evidence of the input that reaches the answer past the feature space.
        error: the sum less the answer, in float64 where the device has it.
        cut_off: evidence that the network took out of the gradient's reach.
        manner: how the pass was recorded.
        operations: how many operations were recorded, which the rounding error grows with.
        blind: whether the replay could not see if the network knows more of its input than the space tells.
        coarsest: a half precision that the network itself computes in on the way, which bounds what can be checked.
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
    manner: Manner = field(default_factory=Manner)
    operations: int = 1
    coarsest: torch.dtype | None = None
    blind: bool = False


def account_of(
    logits: Tensor,
    weights: Tensor,
    rest: Tensor,
    contributions: tuple[Tensor, ...],
    at_zero: Tensor,
    placed: tuple[Tensor, ...] = (),
    coefficients: Tensor | None = None,
    around: Tensor | None = None,
) -> Account:
    """The account of an answer ``sum_k w_k z_k + rest`` whose part without coordinates is ``at_zero + rest``."""
    answer, bias = answer_of(weights, logits) + rest, at_zero + rest
    around = torch.zeros_like(bias) if around is None else around.to(bias)
    error = total_of((*contributions, *placed)) + wide(around) + wide(bias) - wide(answer)
    return Account(logits, answer, contributions, bias, error, around, placed, coefficients)


def size_of(account: Account) -> Tensor:
    """``[N]``: the size of what the sum of an account rounds off: root of the squares, each term by itself."""
    parts = [example_sums(wide(part).square()) for part in (*account.contributions, *account.placed)]
    for one in (account.bias, account.answer, account.around):
        parts.append(wide(one).square())
    return torch.stack(parts).sum(0).sqrt()


def is_complete(account: Account) -> Tensor:
    """``[N]``: whether the sum meets the answer within rounding."""
    return ~misses(account.error, size_of(account), account.operations, account.coarsest or account.answer.dtype)
