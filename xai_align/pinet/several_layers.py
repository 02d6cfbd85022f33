"""Decompositions at several layers in shared passes, in the manner of recording that works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from xai_align.features.routes import Route
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.decomposition import Account, account_of, contribution, contributions_of, decompose, notes_of
from xai_align.pinet.gates.frozen_gates import FrozenGates, latest_node
from xai_align.pinet.gates.placed_biases import BiasesApart
from xai_align.pinet.gates.rule_registry import Rule
from xai_align.pinet.manner import Manner
from xai_align.pinet.recording import NothingFlows, record, replay_from_zero
from xai_align.pinet.rounding import answer_of, total_of
from xai_align.question import Question


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
    if len(spaces) == 1:
        return [decompose(gates, manner, route, spaces[0], questions, biases)]
    found = record(gates, route, spaces, questions, biases, copied=manner.copied)
    noted = notes_of(gates, manner)
    biases.start_replay(found.first)
    at_zero, values, blind = replay_from_zero(gates, route, found.first, [found.first])
    origin = answer_of(found.weights, at_zero)
    accounts = []
    for number in range(len(spaces)):
        # what the first space's zero still gives at this one is this one's, and no bias
        still = [contribution(z, beta) for z, beta in zip(values[number], found.beta[number], strict=True)]
        bias = origin if number == found.first else origin - total_of(still).to(origin)
        contributions = contributions_of(found, number)
        account = account_of(found.logits, found.weights, found.rest, contributions, bias, biases.of(number))
        accounts.append(replace(account, blind=blind, coarsest=gates.coarsest, **noted))
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
        noted = notes_of(gates, manner)
        biases.start_replay(last)
        at_zero, *_ = replay_from_zero(gates, route, 0, range(len(spaces)))
    except RuntimeError as error:
        return account_beside(model, route, spaces, questions, rules, biases.anew(), manner=manner.after(error))
    finally:
        gates.clear()
    around = total_of([contribution(z, beta) for z, beta in zip(found.z[0], found.beta[0], strict=True)])
    account = account_of(
        found.logits,
        found.weights,
        found.rest,
        contributions_of(found, last),
        answer_of(found.weights, at_zero),
        biases.of(last),
        around=around,
    )
    return replace(account, coarsest=gates.coarsest, **noted)


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
