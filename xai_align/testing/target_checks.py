"""Checks of the target argument: all valid forms, and invalid targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xai_align.testing.networks import OneAnswer, TwoAxes
from xai_align.testing.subject import TARGETS, Subject, demand

ONE_FOR_ALL: dict[str, Any] = {
    "1": 1,
    "torch.tensor(1)": torch.tensor(1),
    "torch.tensor([1])": torch.tensor([1]),
    "(1,)": (1,),
}
ONE_FOR_EACH: dict[str, Any] = {
    "torch.tensor([1, 3, 0])": torch.tensor(TARGETS),
    "[1, 3, 0]": list(TARGETS),
    "[(1,), (3,), (0,)]": [(target,) for target in TARGETS],
}


def targets(subject: Subject) -> None:
    """Every form of target that Captum takes means the same, and is used."""
    network, images = subject.network(), subject.images()
    one = _by_each_form(subject, network, images, [1, 1, 1], ONE_FOR_ALL)
    each = _by_each_form(subject, network, images, list(TARGETS), ONE_FOR_EACH)
    demand(
        subject.close(one[:1], each[:1]),
        "example 0 has class 1 in both, and target=1 and target=[1, 3, 0] differ",
    )
    demand(
        not subject.close(one[1:], each[1:]),
        "class 1 and classes 3 and 0 gave the same attributions; is target used?",
    )
    _tuple_targets(subject)
    nothing = subject.attribute(subject.network(OneAnswer()), images)
    demand(nothing.shape == images.shape, f"target=None with one output gave attributions {list(nothing.shape)}")


def numpy_targets(subject: Subject) -> None:
    """Numpy integers and arrays are targets too (Captum's own methods refuse them)."""
    network, images = subject.network(), subject.images()
    _by_each_form(subject, network, images, [1, 1, 1], {"np.int64(1)": np.int64(1), "np.array(1)": np.array(1)})
    _by_each_form(
        subject,
        network,
        images,
        list(TARGETS),
        {
            "np.array([1, 3, 0])": np.array(TARGETS),
            "[np.int64(1), np.int64(3), np.int64(0)]": [np.int64(target) for target in TARGETS],
        },
    )


def wrong_target(subject: Subject) -> None:
    """A target that does not fit raises AssertionError, or IndexError out of range."""
    network, images = subject.network(), subject.images()
    for asked, why in ((99, "out of range"), ([0, 1], "of two entries for three examples"), (1.5, "a float")):
        try:
            subject.attribute(network, images, target=asked)
        except (AssertionError, IndexError):
            continue
        except Exception as error:
            raise AssertionError(f"target={asked} ({why}) raised {type(error).__name__}: {error}") from error
        raise AssertionError(f"target={asked} ({why}) was answered without an error")


def _by_each_form(
    subject: Subject, network: nn.Module, images: Tensor, classes: list[int], forms: dict[str, Any]
) -> Tensor:
    """Return the attributions for these classes, after checking that every form of the target gives them."""
    expected = torch.cat(
        [subject.attribute(network, images[i : i + 1], target=target) for i, target in enumerate(classes)]
    )
    for name, form in forms.items():
        try:
            answer = subject.attribute(network, images, target=form)
        except Exception as error:
            raise AssertionError(f"target={name} raised {type(error).__name__}: {error}") from error
        demand(subject.close(expected, answer), f"target={name} gave other attributions than the plain integers")
    return expected


def _tuple_targets(subject: Subject) -> None:
    """Check tuple targets on an output ``[N, 2, 5]`` whose second row is twice the first."""
    network, images = subject.network(TwoAxes()), subject.images()
    forms = {
        "(1, 3)": ((1, 3), [3, 3, 3]),
        "[(1, 1), (1, 3), (1, 0)]": ([(1, t) for t in TARGETS], list(TARGETS)),
    }
    for name, (target, columns) in forms.items():
        answer = subject.attribute(network, images, target=target)
        expected = subject.attribute(subject.network(_Doubled()), images, target=columns)
        demand(
            subject.close(expected, answer),
            f"target={name} of an output [N, 2, 5] gave other attributions than the same logits in an output [N, 5]",
        )


class _Doubled(nn.Module):
    """Layer that doubles the logits."""

    def forward(self, logits: Tensor) -> Tensor:
        """Return the logits ``[N, 5]``, doubled."""
        return 2 * logits
