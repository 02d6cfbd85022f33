"""Checks that the model and the inputs are unchanged after a call, also after an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xai_align.testing.networks import Failing
from xai_align.testing.subject import Subject, demand
from xai_align.testing.traces import differences, snapshot, snapshot_of_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


def no_trace(subject: Subject) -> None:
    """Model, inputs and random state are as before: parameters, .grad, modes, hooks, attributes."""
    network, images = subject.network(), subject.images()
    method, before, given = subject.build(network), snapshot(network), snapshot_of_inputs((images,))
    method.attribute(images, target=1, **subject.options)
    left = differences(before, snapshot(network)) + differences(given, snapshot_of_inputs((images,)))
    demand(not left, "; ".join(left))


def no_trace_after_error(subject: Subject) -> None:
    """The model is as before also when the call raised."""
    for network, target, what in _failing_calls(subject):
        before = snapshot(network)
        _call_that_fails(subject, network, subject.images(), target, what)
        left = differences(before, snapshot(network))
        demand(not left, f"after {what}: {'; '.join(left)}")


def inputs_after_error(subject: Subject) -> None:
    """The inputs are as before also when the call raised (Captum's leave requires_grad set)."""
    for network, target, what in _failing_calls(subject):
        images = subject.images()
        before = snapshot_of_inputs((images,))
        _call_that_fails(subject, network, images, target, what)
        left = differences(before, snapshot_of_inputs((images,)))
        demand(not left, f"after {what}: {'; '.join(left)}")


def _failing_calls(subject: Subject) -> Iterator[tuple[nn.Module, Any, str]]:
    yield subject.network(), 99, "a target out of range"
    yield subject.network(), [0, 1], "a list of targets of the wrong length"
    yield subject.network(Failing()), 1, "a layer that raised"


def _call_that_fails(subject: Subject, network: nn.Module, images: Tensor, target: Any, what: str) -> None:
    try:
        subject.attribute(network, images, target=target)
    except Exception:  # another check tests which exception it is
        return
    raise AssertionError(f"{what} made no error")
