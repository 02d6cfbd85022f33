"""Checks of the returned attributions: type, shape, dtype, device, and what their values may depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xai_align._tools.random_state import fixed_random_state
from xai_align.testing.subject import TARGETS, Subject, demand, difference, kind

if TYPE_CHECKING:
    pass


def shape(subject: Subject) -> None:
    """A tensor in gives a finite tensor of the same shape."""
    images = subject.images()
    answer = subject.attribute(subject.network(), images, target=1)
    demand(isinstance(answer, Tensor), f"a tensor was given and {kind(answer)} came back")
    demand(answer.shape == images.shape, f"inputs {list(images.shape)} gave attributions {list(answer.shape)}")
    demand(bool(torch.isfinite(answer).all()), "the attributions hold NaN or infinity")
    demand(
        bool(answer.detach().abs().sum() > 0),
        "the attributions are all zero on a network that depends on every pixel",
    )


def tuples(subject: Subject) -> None:
    """A tuple of one tensor gives a tuple of one tensor, and the same numbers."""
    images, network = subject.images(), subject.network()
    answer = subject.attribute(network, (images,), target=1)
    demand(
        isinstance(answer, tuple) and len(answer) == 1,
        f"a tuple of one tensor was given and {kind(answer)} came back",
    )
    demand(
        answer[0].shape == images.shape,
        f"inputs {list(images.shape)} gave attributions {list(answer[0].shape)}",
    )
    alone = subject.attribute(network, images, target=1)
    demand(subject.close(answer[0], alone), "a tensor and a tuple of the same tensor gave different attributions")


def several_inputs(subject: Subject) -> None:
    """A tuple of two tensors gives attributions for both."""
    pair = (subject.images(), subject.images(seed=8))
    answer = subject.attribute(subject.network(), pair, target=1)
    demand(isinstance(answer, tuple) and len(answer) == 2, f"two inputs were given and {kind(answer)} came back")
    shapes = [list(one.shape) for one in answer]
    demand(
        shapes == [list(x.shape) for x in pair],
        f"two inputs {list(pair[0].shape)} gave attributions {shapes}",
    )


def further_arguments(subject: Subject) -> None:
    """Further arguments of the model, in a tuple or a single tensor, reach it."""
    network, images, second = subject.network(), subject.images(), subject.images(seed=8)
    shifted = subject.attribute(network, images, target=1, additional_forward_args=(second, 2.0))
    doubled = subject.attribute(network, images, target=1, additional_forward_args=(0 * second, 2.0))
    plain = subject.attribute(network, images, target=1)
    single = subject.attribute(network, images, target=1, additional_forward_args=second)
    for name, answer in {"a tuple": shifted, "a single tensor": single}.items():
        demand(
            answer.shape == images.shape,
            f"with {name} of further arguments, attributions are {list(answer.shape)}",
        )
    demand(
        not subject.close(shifted, doubled) or not subject.close(doubled, plain),
        "additional_forward_args made no difference to a network that uses them",
    )


def batch_mates(subject: Subject) -> None:
    """An example gets the same attributions in a batch as alone."""
    network, images = subject.network(), subject.images()
    together = subject.attribute(network, images, target=list(TARGETS))
    for position, target in enumerate(TARGETS):
        alone = subject.attribute(network, images[position : position + 1], target=target)
        demand(
            subject.close(alone, together[position : position + 1]),
            f"example {position} got other attributions in a batch of 3 than alone "
            f"(largest difference {difference(alone, together[position : position + 1]):.3g})",
        )


def determinism(subject: Subject) -> None:
    """The same call gives the same attributions, whatever the random state."""
    network, images = subject.network(), subject.images()
    with fixed_random_state(0):
        first = subject.attribute(network, images, target=1)
    with fixed_random_state(1):
        second = subject.attribute(network, images, target=1)
    demand(
        subject.close(first, second),
        f"two identical calls gave attributions that differ by {difference(first, second):.3g}",
    )


def without_grad(subject: Subject) -> None:
    """It works under torch.no_grad(), where NoiseTunnel and Captum's metrics call it."""
    network, images = subject.network(), subject.images()
    usual = subject.attribute(network, images, target=1)
    with torch.no_grad():
        answer = subject.attribute(network, images, target=1)
    demand(subject.close(usual, answer), "the attributions are different under torch.no_grad()")


def dtype(subject: Subject) -> None:
    """Float64 in gives float64 out, float32 gives float32."""
    answer = subject.attribute(subject.network().double(), subject.images().double(), target=1)
    demand(answer.dtype == torch.float64, f"float64 inputs gave attributions of {answer.dtype}")
    single = subject.attribute(subject.network(), subject.images(), target=1)
    demand(single.dtype == torch.float32, f"float32 inputs gave attributions of {single.dtype}")


def device(subject: Subject) -> None:
    """Attributions are on the device of the inputs."""
    images = subject.images()
    answer = subject.attribute(subject.network(), images, target=1)
    demand(answer.device == images.device, f"inputs on {images.device} gave attributions on {answer.device}")


def detached(subject: Subject) -> None:
    """Attributions carry no graph (some of Captum's do)."""
    answer = subject.attribute(subject.network(), subject.images(), target=1)
    demand(not answer.requires_grad, "the attributions still require grad")
