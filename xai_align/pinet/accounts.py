"""The two ways to account for an answer in a feature space: local, and with frozen gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xai_align.features.routes import Route
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet import (
    attention_rules,
    constant_operations,
    convolution_rule,
    gate_rules,
    linear_operations,
    normalisation_rules,
    pooling_rules,
    product_rules,
    recurrent_rules,
    selection_rules,
)
from xai_align.pinet.frozen_gates import CutOff, FrozenGates, SharedViews, is_foreign, latest_node
from xai_align.pinet.input_checks import check_logits
from xai_align.pinet.placed_biases import BiasesApart
from xai_align.pinet.rounding import answer_of, example_sums, misses, total_of, wide
from xai_align.pinet.rule_registry import Rule
from xai_align.question import Question, linear_forms

#: The modules that teach the interception its operations.
RULES = (
    linear_operations,
    constant_operations,
    gate_rules,
    product_rules,
    convolution_rule,
    normalisation_rules,
    pooling_rules,
    selection_rules,
    attention_rules,
    recurrent_rules,
)


@dataclass(frozen=True)
class Manner:
    """How a pass is recorded; each departure from the first manner is tried where the one before fails.

    Attributes:
        gates_flow: gates are read as activations.
        separate_views: views that the network writes into are views of one tensor each.
        copied: what autograd saves is copied, because the network overwrites it.
    """

    gates_flow: bool = False
    separate_views: bool = False
    copied: bool = False

    def gates(self, model: nn.Module, rules: Mapping[Any, Rule]) -> FrozenGates:
        """The interception in this manner."""
        return FrozenGates(model, rules, flowing=self.gates_flow, separate_views=self.separate_views)

    def after(self, error: Exception) -> Manner:
        """The manner to try after this error.

        Raises:
            Exception: the error itself; there is nothing more to try.
        """
        if isinstance(error, SharedViews) and not self.separate_views:
            return replace(self, separate_views=True)
        if isinstance(error, NothingFlows) and not self.gates_flow:
            return replace(self, gates_flow=True)
        if "modified by an inplace operation" in str(error) and not self.copied:
            return replace(self, copied=True)
        raise error


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
    manner: Manner = Manner()
    operations: int = 1
    coarsest: torch.dtype | None = None
    blind: bool = False


@dataclass
class Recording:
    """One recorded pass, differentiated: what every feature space held and how the answer depends on it."""

    logits: Tensor
    weights: Tensor
    rest: Tensor
    z: list[list[Tensor]] = field(default_factory=list)
    beta: list[list[Tensor | None]] = field(default_factory=list)
    #: The space that ran first.
    first: int = 0


class NothingFlows(ValueError):
    """No evidence of a feature space reaches the answer but through gates and constants."""

    #: Its number among those that are read.
    number = 0


def local_account(route: Route, questions: Sequence[Question], logits: Tensor | None = None) -> Account:
    """For an affine head: ``beta`` and bias are those of the head at ``z = 0``; the backbone is not differentiated."""
    with torch.no_grad():
        found = check_logits(route.run(_as_it_is))
    weights, rest = linear_forms(questions, found)
    with torch.enable_grad():
        origin = [torch.zeros_like(z, requires_grad=True) for z in tree_leaves(route.z)]
        places = iter(origin)
        at_zero = answer_of(weights.clone(), check_logits(route.run(lambda number, z: next(places))))
        beta = torch.autograd.grad(at_zero.sum(), origin, materialize_grads=True)
    contributions = tuple(z * b for z, b in zip(tree_leaves(route.z), beta, strict=True))
    return account_of(found, weights, rest, contributions, at_zero.detach())


def frozen_accounts(
    model: nn.Module,
    route: Route,
    spaces: Sequence[FeatureSpace],
    questions: Sequence[Question],
    rules: Mapping[Any, Rule],
    new_biases: Callable[[], BiasesApart],
) -> list[Account]:
    """For everything else: one forward pass with gates kept, one backward, and one replay at ``z = 0``.

    However many spaces there are, they share these passes. With ``z_k(0)`` the values at space ``k`` in the replay
    from ``z = 0`` at the first one, ``bias_k = answer(0) - sum(beta_k * z_k(0))``.

    Gates that nothing else leads around are read as activations; views that the network writes into are separated.
    Both take the pass again.

    Args:
        model: the network, for names in messages.
        route: through the spaces.
        spaces: where the answer is accounted for, each by itself.
        questions: one for each example.
        rules: which go before the frozen gates' own.
        new_biases: makes what listens to biases.

    Raises:
        NothingFlows: no evidence reaches the answer; the message names what ends it.
    """
    manner = Manner()
    while True:
        biases = new_biases()
        gates = manner.gates(model, biases.rules(rules))
        try:
            return _accounts_by(gates, manner, route, spaces, questions, biases)
        except (RuntimeError, NothingFlows) as error:
            try:
                manner = manner.after(error)
            except NothingFlows as end:
                raise NothingFlows(_dead_end(model, manner, route, spaces[end.number], end.number, rules)) from None
        finally:
            gates.clear()


def _accounts_by(
    gates: FrozenGates,
    manner: Manner,
    route: Route,
    spaces: Sequence[FeatureSpace],
    questions: Sequence[Question],
    biases: BiasesApart,
) -> list[Account]:
    found = record(gates, route, spaces, questions, biases, copied=manner.copied)
    operations, cut_off = gates.operations, gates.cut_off
    biases.start_replay(found.first)
    at_zero, values, blind = replay_from_zero(gates, route, found.first, [found.first])
    origin = answer_of(found.weights, at_zero)
    accounts = []
    for number in range(len(spaces)):
        contributions = tuple(map(_contribution, found.z[number], found.beta[number]))
        # what the first space's zero still gives at this one is this one's, and no bias
        still = [_contribution(z, beta) for z, beta in zip(values[number], found.beta[number], strict=True)]
        bias = origin if number == found.first else origin - total_of(still).to(origin)
        account = account_of(found.logits, found.weights, found.rest, contributions, bias, biases.of(number))
        of_pass: dict[str, Any] = {"manner": manner, "operations": operations, "coarsest": gates.coarsest}
        accounts.append(replace(account, cut_off=cut_off, blind=blind, **of_pass))
    return accounts


def account_beside(
    model: nn.Module,
    route: Route,
    spaces: Sequence[FeatureSpace],
    questions: Sequence[Question],
    rules: Mapping[Any, Rule],
    biases: BiasesApart,
    *,
    manner: Manner,
) -> Account:
    """The account at ``spaces[-1]``, with what reaches the answer past it as a number of its own.

    ``spaces[0]`` is the input. The space is held while the input is differentiated, and both are zero in the replay.

    Args:
        manner: in which the space alone was recorded.
    """
    gates = manner.gates(model, biases.rules(rules))
    last = len(spaces) - 1
    try:
        found = record(gates, route, spaces, questions, biases, apart=True, copied=manner.copied)
        operations, cut_off = gates.operations, gates.cut_off
        biases.start_replay(last)
        at_zero, *_ = replay_from_zero(gates, route, 0, range(len(spaces)))
    except RuntimeError as error:
        return account_beside(model, route, spaces, questions, rules, biases.anew(), manner=manner.after(error))
    finally:
        gates.clear()
    contributions = tuple(map(_contribution, found.z[last], found.beta[last]))
    around = total_of([_contribution(z, beta) for z, beta in zip(found.z[0], found.beta[0], strict=True)])
    at_zero = answer_of(found.weights, at_zero)
    account = account_of(
        found.logits, found.weights, found.rest, contributions, at_zero, biases.of(last), around=around
    )
    return replace(account, cut_off=cut_off, manner=manner, operations=operations, coarsest=gates.coarsest)


def record(
    gates: FrozenGates,
    route: Route,
    spaces: Sequence[FeatureSpace],
    questions: Sequence[Question],
    biases: BiasesApart,
    *,
    apart: bool = False,
    copied: bool = False,
) -> Recording:
    """Run the network with its gates kept, and differentiate the answer.

    Args:
        apart: whether every space is held while the others are differentiated. Otherwise what comes out of an earlier
            space stays tied to it, so that one way back passes all of them.
        copied: whether autograd saves copies.

    Raises:
        NothingFlows: the answer does not depend on a space.
    """
    z: list[list[Tensor]] = [[] for _ in spaces]
    order: list[int] = []
    apart = apart or len(spaces) == 1

    def alive(number: int, values: Tensor) -> Tensor:
        # the layer may run in a region without gradients
        with gates.paused(), torch.inference_mode(False), torch.enable_grad():
            biases.pass_space(number, spaces[number], values)
            order.append(number)
            tied = values.requires_grad and not is_foreign(values, gates.since) and not apart
            z[number].append(values if tied else _leaf(values))
            return z[number][-1].clone()  # the network may write into it

    given = route.given()
    with torch.enable_grad():
        gates.since = latest_node()
        with torch.autograd.graph.saved_tensors_hooks(_copy, _as_saved) if copied else nullcontext(), gates:
            output = route.run(alive, given)
        logits = check_logits(output)
        if not logits.requires_grad or is_foreign(logits, gates.since):
            raise NothingFlows
        for parts in z:
            _check_batch(parts, logits)
        weights, rest = linear_forms(questions, logits)
        answer = answer_of(weights, logits).sum()
        leaves = [part for parts in z for part in parts]
        gradients = iter(torch.autograd.grad(answer, leaves, allow_unused=True))
    beta: list[list[Tensor | None]] = [[next(gradients) for _ in parts] for parts in z]
    z = [[part.detach() for part in parts] for parts in z]
    for number in range(len(spaces)) if not apart else [len(spaces) - 1]:
        if all(part is None for part in beta[number]):
            nothing = NothingFlows()
            nothing.number = number
            raise nothing
    return Recording(logits.detach(), weights, rest, z, beta, order[0])


def replay_from_zero(
    gates: FrozenGates, route: Route, first: int, emptied: Sequence[int]
) -> tuple[Tensor, list[list[Tensor]], bool]:
    """The logits with the gates held and these spaces at zero, what every space held then, and whether it was blind.

    What lies before the first space is run on inputs of zeros: if the network knows more of its input than the space
    tells, the sum will miss the answer. A network that refuses zeros is run on its own inputs, blind to that.
    """
    attempts = (True, False) if route.has_zero_inputs else (False,)
    for zeros in attempts:
        values: list[list[Tensor]] = [[] for _ in range(route.spaces)]

        def put(number: int, z: Tensor, values: list[list[Tensor]] = values) -> Tensor:
            if number == first:
                gates.depart()
            with gates.paused():
                z = torch.zeros_like(z) if number in emptied else z
                values[number].append(z)
                return z.clone()

        given = route.given(zeros=zeros)
        try:
            with gates.replay(departed=False):
                output = route.run(put, given)
            return check_logits(output).detach(), values, not zeros and route.has_zero_inputs
        except Exception:
            if not zeros:  # a network may refuse zeros, but not the inputs that were recorded
                raise
    raise AssertionError


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


def _dead_end(
    model: nn.Module,
    manner: Manner,
    route: Route,
    space: FeatureSpace,
    number: int,
    rules: Mapping[Any, Rule],
) -> str:
    """Why no evidence arrives, from a pass that notes where it ends."""
    gates = manner.gates(model, rules)
    gates.trace_stops = True

    def alive(which: int, values: Tensor) -> Tensor:
        with gates.paused(), torch.inference_mode(False), torch.enable_grad():
            return values.detach().clone().requires_grad_().clone() if which == number else values

    given = route.given()
    gates.since = latest_node()
    with torch.enable_grad(), gates:
        route.run(alive, given)
    layer = space.layer
    stopped = gates.last_stop
    cut = gates.cut_off
    gates.clear()
    if stopped is None:
        return (
            f"the output does not depend on the feature space '{layer}': it does not lie upstream of the output; "
            "choose a layer that does"
        )
    name, by = stopped
    if cut and name in {one.how for one in cut} | {"no_grad"}:
        return (
            f"no evidence of '{layer}' reaches the output: {'; '.join(map(str, cut))}. Read out at a layer behind it "
            "(feature_space=...), or take the gradient barrier out of the forward pass"
        )
    if "softmax" in name:
        return (
            f"no evidence of '{layer}' reaches the output: {by} turns it into probabilities with softmax, which is "
            "held as a gate; give a model that returns logits"
        )
    return (
        f"no evidence of '{layer}' reaches the output: the last operation that depends on it is '{name}' in {by}, "
        "which is held as a constant; read out behind it, or teach the operation with xai_align.pinet.register_rule"
    )


def _contribution(z: Tensor, beta: Tensor | None) -> Tensor:
    return torch.zeros_like(z) if beta is None else z * beta


def _check_batch(z: Sequence[Tensor], logits: Tensor) -> None:
    for part in z:
        if part.dim() == 0 or len(part) != len(logits):
            raise ValueError(
                f"the feature space has shape {list(part.shape)} for {len(logits)} examples: its first axis is not the "
                "batch, so its contributions belong to no example; choose another layer"
            )


def _leaf(values: Tensor) -> Tensor:
    values = values.detach()
    return (values.clone() if values.is_inference() else values).requires_grad_()


def _copy(x: Tensor) -> Tensor:
    return x.clone()


def _as_saved(x: Tensor) -> Tensor:
    return x


def _as_it_is(number: int, z: Tensor) -> Tensor:
    return z
