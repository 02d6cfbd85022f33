"""One forward pass with gates saved, its gradient, and its replay from zero."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xai_align._tools.saved_copies import saved_copies
from xai_align._tools.thread_state import hides_interrupt
from xai_align.features.routes import Route
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.gates.dependence import is_foreign, latest_node
from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.placed_biases import BiasesApart
from xai_align.pinet.input_checks import check_logits
from xai_align.pinet.rounding import answer_of
from xai_align.question import Question, linear_forms


@dataclass
class Recording:
    """Recorded and differentiated forward pass: the values of each feature space, and the answer's gradient there."""

    logits: Tensor
    weights: Tensor
    rest: Tensor
    z: list[list[Tensor]] = field(default_factory=list)
    beta: list[list[Tensor | None]] = field(default_factory=list)
    #: The space that ran first.
    first: int = 0


class NothingFlows(ValueError):
    """Feature space whose evidence reaches the answer only through gates and constants."""

    #: Its index among the spaces that are read out.
    number = 0


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
    """Run the network, save its gates, and differentiate the answer.

    Args:
        apart: whether each space is held while the others are differentiated. Otherwise later spaces stay connected to
            earlier ones, so that one backward pass goes through all of them.
        copied: whether autograd saves copies.

    Raises:
        NothingFlows: the answer does not depend on a space.
    """
    z: list[list[Tensor]] = [[] for _ in spaces]
    order: list[int] = []
    apart = apart or len(spaces) == 1

    def alive(number: int, values: Tensor) -> Tensor:
        # the layer may run under no_grad
        with gates.paused(), torch.inference_mode(False), torch.enable_grad():
            biases.pass_space(number, spaces[number], values)
            order.append(number)
            tied = values.requires_grad and not is_foreign(values, gates.since) and not apart
            z[number].append(values if tied else _leaf(values))
            return z[number][-1].clone()  # the network may write to it

    given = route.given()
    with torch.enable_grad():
        gates.since = latest_node()
        with saved_copies() if copied else nullcontext(), gates:
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
    """Return the logits with gates held and these spaces at zero, all spaces' values, and whether it was blind.

    The part before the first space runs on inputs of zeros, so that evidence that bypasses the space shows up as a
    difference between sum and answer. A network that raises on zeros runs on its own inputs, blind to that.
    """
    attempts = (True, False) if route.has_zero_inputs else (False,)
    for zeros in attempts:
        values: list[list[Tensor]] = [[] for _ in range(route.spaces)]

        def put(number: int, z: Tensor, values: list[list[Tensor]] = values) -> Tensor:
            if number == first:
                gates.start_counterfactual()
            with gates.paused():
                z = torch.zeros_like(z) if number in emptied else z
                values[number].append(z)
                return z.clone()

        given = route.given(zeros=zeros)
        try:
            with gates.replay(counterfactual=False):
                output = route.run(put, given)
            return check_logits(output).detach(), values, not zeros and route.has_zero_inputs
        except Exception as error:
            if not zeros or hides_interrupt(error):  # a network may raise on zeros, but not on the recorded inputs
                raise
    raise AssertionError


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
