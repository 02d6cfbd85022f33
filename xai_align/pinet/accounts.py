"""The two ways to account for an answer in a feature space: local, and with frozen gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xai_align.hookspecs import FeatureSpace
from xai_align.pinet import (
    attention_rules,
    convolution_rule,
    gate_rules,
    linear_operations,
    normalisation_rules,
    pooling_rules,
)
from xai_align.pinet.frozen_gates import FrozenGates
from xai_align.pinet.input_checks import check_logits
from xai_align.pinet.placed_biases import BiasesApart
from xai_align.pinet.routes import Route
from xai_align.pinet.rule_registry import Rule
from xai_align.question import Question, linear_forms

#: The modules that teach the interception its operations.
RULES = (linear_operations, gate_rules, convolution_rule, normalisation_rules, pooling_rules, attention_rules)


class CompletenessError(ArithmeticError):
    """The parts miss the answer by far more than rounding: something in the network is not what its rule says."""


@dataclass(frozen=True)
class Account:
    """``answer = sum(contributions) + sum(placed) + bias``.

    Each is ``[N]`` but the contributions, which have the shapes of ``z``, and placed biases, maps ``[N, h, w]``.
    A PiNet's account of itself also holds its coefficients ``pi``, ``[N, C or 1, h, w]``.
    """

    logits: Tensor
    answer: Tensor
    contributions: tuple[Tensor, ...]
    bias: Tensor
    error: Tensor
    placed: tuple[Tensor, ...] = ()
    coefficients: Tensor | None = None


def local_account(route: Route, questions: Sequence[Question]) -> Account:
    """For an affine head: ``beta`` and bias are those of the head at ``z = 0``; the backbone is not differentiated."""
    with torch.no_grad():
        logits = check_logits(route.run(_as_it_is))
    weights, rest = linear_forms(questions, logits)
    with torch.inference_mode(False), torch.enable_grad():
        origin = [torch.zeros_like(z, requires_grad=True) for z in tree_leaves(route.z)]
        places = iter(origin)
        at_zero = _answer(weights.clone(), route.run(lambda number, z: next(places)))
        beta = torch.autograd.grad(at_zero.sum(), origin, materialize_grads=True)
    contributions = tuple(z * b for z, b in zip(tree_leaves(route.z), beta, strict=True))
    return account_of(logits, weights, rest, contributions, at_zero.detach())


def frozen_accounts(
    model: nn.Module,
    route: Route,
    spaces: Sequence[FeatureSpace],
    questions: Sequence[Question],
    rules: Mapping[Any, Rule],
    biases: BiasesApart,
) -> list[Account]:
    """For everything else: one forward pass with gates kept, one backward, and for each space a replay at ``z = 0``.

    Args:
        model: the network.
        route: through the spaces.
        spaces: where the answer is accounted for, each by itself.
        questions: one for each example.
        rules: which go before the frozen gates' own.
        biases: what becomes of biases.
    """
    z: list[list[Tensor]] = [[] for _ in spaces]

    def alive(number: int, values: Tensor) -> Tensor:
        # what comes out of an earlier space stays tied to it, so that one way back passes all of them
        biases.pass_space(number, spaces[number], values)
        z[number].append(values if values.requires_grad else values.detach().requires_grad_())
        return z[number][-1].clone()  # the network may write into it

    gates = FrozenGates(model, biases.rules(rules))
    try:
        with torch.enable_grad(), gates:
            output = route.run(alive)
        logits = check_logits(output)
        if not logits.requires_grad:
            raise _not_upstream(spaces[0])
        for parts in z:
            _check_batch(parts, logits)
        weights, rest = linear_forms(questions, logits)
        with torch.enable_grad():
            answer = _answer(weights, logits).sum()
            found = iter(torch.autograd.grad(answer, [part for parts in z for part in parts], allow_unused=True))
        beta = [[next(found) for _ in parts] for parts in z]
        z = [[part.detach() for part in parts] for parts in z]
        output = logits = answer = logits.detach()  # the graph ends here, and with it what it saved
        at_zero = []
        for number, space in enumerate(spaces):
            if all(part is None for part in beta[number]):
                raise _not_upstream(space)
            biases.start_replay(number)
            with gates.replay(departed=False):
                output = route.run(partial(_emptied, gates, number))
            at_zero.append(_answer(weights, output.detach()))
    finally:
        gates.clear()
    return [
        account_of(logits, weights, rest, tuple(map(_contribution, parts, slopes)), constant, biases.of(number))
        for number, (parts, slopes, constant) in enumerate(zip(z, beta, at_zero, strict=True))
    ]


def _emptied(gates: FrozenGates, empty: int, number: int, z: Tensor) -> Tensor:
    """Zero in the space of one number, in the others what the replay computes. Marked as what depends on ``z``."""
    if number == empty:
        gates.depart()
        return torch.zeros_like(z).requires_grad_().clone()
    return z if z.requires_grad else z.detach().requires_grad_().clone()


def _contribution(z: Tensor, beta: Tensor | None) -> Tensor:
    return torch.zeros_like(z) if beta is None else z * beta


def _not_upstream(space: FeatureSpace) -> ValueError:
    return ValueError(
        f"the output does not depend on the feature space '{space.layer}' other than through gates; it may not lie "
        "upstream of the output, or the model ends in softmax or sigmoid: give a model that returns logits"
    )


def check_completeness(account: Account, space: FeatureSpace) -> None:
    """Raise if the sum misses the answer by more than rounding can explain.

    Rounding grows with the size of the terms that cancel, so the bound is
    ``sqrt(eps) * (sum |contributions| + |bias| + |answer|)``.

    Raises:
        CompletenessError: an operation was not rewritten (a custom autograd function, compiled or scripted code).
    """
    size = sum(wide(part).abs().flatten(1).sum(1) for part in (*account.contributions, *account.placed))
    size = size + wide(account.bias).abs() + wide(account.answer).abs()
    bound = torch.finfo(account.answer.dtype).eps ** 0.5 * size
    if bool((account.error.abs() > bound).any()):
        worst = int((account.error.abs() - bound).argmax())
        raise CompletenessError(
            f"the contributions at '{space.layer}' and the bias of example {worst} miss the answer "
            f"{float(account.answer[worst]):.6g} by {float(account.error[worst]):.3g}, far more than rounding; "
            "the network has an operation that the interception does not see (a custom autograd function, "
            "gradient checkpointing, scripted or compiled code): read out behind it, with feature_space=..."
        )


def wide(x: Tensor) -> Tensor:
    """In float64 where the device has it, so that the sum adds no error of its own."""
    return x.float() if x.device.type == "mps" else x.double()


def total_of(parts: Sequence[Tensor]) -> Tensor:
    """``[N]``: the sum over all parts and all their axes but the first, in float64 where the device has it."""
    return torch.stack([wide(part).flatten(1).sum(1) for part in parts]).sum(0)


def account_of(
    logits: Tensor,
    weights: Tensor,
    rest: Tensor,
    contributions: tuple[Tensor, ...],
    at_zero: Tensor,
    placed: tuple[Tensor, ...] = (),
    coefficients: Tensor | None = None,
) -> Account:
    """The account of an answer ``sum_k w_k z_k + rest`` whose part without coordinates is ``at_zero + rest``."""
    answer, bias = _answer(weights, logits) + rest, at_zero + rest
    error = total_of((*contributions, *placed)) + wide(bias) - wide(answer)
    return Account(logits, answer, contributions, bias, error, placed, coefficients)


def _check_batch(z: Sequence[Tensor], logits: Tensor) -> None:
    for part in z:
        if part.dim() == 0 or len(part) != len(logits):
            raise ValueError(
                f"the feature space has shape {list(part.shape)} for {len(logits)} examples: its first axis is not the "
                "batch, so its contributions belong to no example; choose another layer"
            )


def _answer(weights: Tensor, logits: Tensor) -> Tensor:
    """``sum_k w_k z_k`` for each example."""
    return (weights * logits).flatten(1).sum(1) if logits.dim() > 1 else weights * logits


def _as_it_is(number: int, z: Tensor) -> Tensor:
    return z
