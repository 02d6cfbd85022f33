"""Decompositions at several layers in shared passes, in the first recording mode that works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from xai_align.features.routes import Route
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.decomposition import (
    Decomposition,
    contribution,
    contributions_of,
    decompose,
    decomposition_of,
    notes_of,
    slopes_of,
)
from xai_align.pinet.gates.dependence import latest_node
from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.placed_biases import BiasesApart
from xai_align.pinet.gates.rule_registry import Rule
from xai_align.pinet.recording import NothingFlows, record, replay_from_zero
from xai_align.pinet.recording_mode import RecordingMode
from xai_align.pinet.rounding import answer_of, total_of
from xai_align.question import Question


def frozen_decompositions(
    model: nn.Module,
    route: Route,
    spaces: Sequence[FeatureSpace],
    questions: Sequence[Question],
    rules: Mapping[Any, Rule],
    new_biases: Callable[[], BiasesApart],
) -> list[Decomposition]:
    """Return decompositions by frozen gates, from one forward pass, one backward pass, and one replay at ``z = 0``.

    All spaces share these passes. With ``z_k(0)`` the values at space ``k`` in the replay
    from ``z = 0`` at the first one, ``bias_k = answer(0) - sum(beta_k * z_k(0))``.

    Gates are treated as activations where there is no other path to the answer; views that the network writes into are
    separated. Either repeats the pass.

    Args:
        model: the network, for names in messages.
        route: runs the network through the spaces.
        spaces: the feature spaces, each of which gets a decomposition.
        questions: one per example.
        rules: rules that override the frozen gates' own.
        new_biases: makes the object that handles biases.

    Raises:
        NothingFlows: no evidence reaches the answer; the message names the operation that stops it.
    """
    mode = RecordingMode()
    while True:
        biases = new_biases()
        gates = mode.gates(model, biases.rules(rules))
        try:
            return _decompositions_by(gates, mode, route, spaces, questions, biases)
        except (RuntimeError, NothingFlows) as error:
            try:
                mode = mode.after(error)
            except NothingFlows as end:
                raise NothingFlows(_dead_end(model, mode, route, spaces[end.number], end.number, rules)) from None
        finally:
            gates.clear()


def _decompositions_by(
    gates: FrozenGates,
    mode: RecordingMode,
    route: Route,
    spaces: Sequence[FeatureSpace],
    questions: Sequence[Question],
    biases: BiasesApart,
) -> list[Decomposition]:
    if len(spaces) == 1:
        return [decompose(gates, mode, route, spaces[0], questions, biases)]
    found = record(gates, route, spaces, questions, biases, copied=mode.copied)
    noted = notes_of(gates, mode)
    biases.start_replay(found.first)
    at_zero, values, blind = replay_from_zero(gates, route, found.first, [found.first])
    origin = answer_of(found.weights, at_zero)
    decompositions = []
    for number in range(len(spaces)):
        # values at this space in the replay from the first space's zero are contributions here, not bias
        still = [contribution(z, beta) for z, beta in zip(values[number], found.beta[number], strict=True)]
        bias = origin if number == found.first else origin - total_of(still).to(origin)
        contributions = contributions_of(found, number)
        decomposition = decomposition_of(
            found.logits, found.weights, found.rest, contributions, bias, biases.of(number)
        )
        slopes = slopes_of(found, number)
        decompositions.append(replace(decomposition, slopes=slopes, blind=blind, coarsest=gates.coarsest, **noted))
    return decompositions


def decompose_with_bypass(
    model: nn.Module,
    route: Route,
    spaces: Sequence[FeatureSpace],
    questions: Sequence[Question],
    rules: Mapping[Any, Rule],
    biases: BiasesApart,
    *,
    mode: RecordingMode,
) -> Decomposition:
    """Return the decomposition at ``spaces[-1]``, with evidence that bypasses it as a separate number.

    ``spaces[0]`` is the input. The space is held while the input is differentiated, and both are zero in the replay.

    Args:
        mode: the mode in which the space alone was recorded.
    """
    gates = mode.gates(model, biases.rules(rules))
    last = len(spaces) - 1
    try:
        found = record(gates, route, spaces, questions, biases, apart=True, copied=mode.copied)
        noted = notes_of(gates, mode)
        biases.start_replay(last)
        at_zero, *_ = replay_from_zero(gates, route, 0, range(len(spaces)))
    except RuntimeError as error:
        return decompose_with_bypass(model, route, spaces, questions, rules, biases.anew(), mode=mode.after(error))
    finally:
        gates.clear()
    around = total_of([contribution(z, beta) for z, beta in zip(found.z[0], found.beta[0], strict=True)])
    decomposition = decomposition_of(
        found.logits,
        found.weights,
        found.rest,
        contributions_of(found, last),
        answer_of(found.weights, at_zero),
        biases.of(last),
        around=around,
    )
    return replace(decomposition, slopes=slopes_of(found, last), coarsest=gates.coarsest, **noted)


def _dead_end(
    model: nn.Module,
    mode: RecordingMode,
    route: Route,
    space: FeatureSpace,
    number: int,
    rules: Mapping[Any, Rule],
) -> str:
    """Return why no evidence reaches the answer, from a pass that traces where it stops."""
    gates = mode.gates(model, rules)
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
            f"the output does not depend on the feature space '{layer}': the output is not computed from it; "
            "choose a layer that it depends on"
        )
    name, by = stopped
    if cut and name in {one.how for one in cut} | {"no_grad"}:
        return (
            f"no evidence of '{layer}' reaches the output: {'; '.join(map(str, cut))}. Read out at a layer after it "
            "(feature_space=...), or take the gradient barrier out of the forward pass"
        )
    if "softmax" in name:
        return (
            f"no evidence of '{layer}' reaches the output: {by} turns it into probabilities with softmax, which is "
            "held as a gate; give a model that returns logits"
        )
    return (
        f"no evidence of '{layer}' reaches the output: the last operation that depends on it is '{name}' in {by}, "
        "which is held as a constant; read out after it, or register a rule with xai_align.pinet.register_rule"
    )
