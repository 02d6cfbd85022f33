"""Convolutions of every dimension and geometry, against sums over windows taken by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.frozen_function import assert_decomposes, assert_of_one_kind, decompose, number, one_by_one
from xai_align.pinet.gates.frozen_gates import FrozenGates

LINE, PLANE, CUBE = number(1, 2, 2, 7), number(2, 2, 4, 6, 5), number(3, 1, 2, 4, 4, 4)
W1, W2, W3 = number(4, 3, 2, 3), number(5, 4, 4, 3, 2), number(6, 2, 2, 2, 2, 2)
GROUPED = number(7, 6, 2, 2, 2)
BIAS = number(8, 4)

Case = tuple[list[Tensor], Callable[..., Any], Callable[..., Any]]


def convolved(
    x: Tensor,
    weight: Tensor,
    step: tuple[int, ...],
    around: tuple[int, ...] | None = None,
    apart: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    """The sum over a group's channels and the places of the kernel."""
    axes = weight.dim() - 2
    apart = apart or (1,) * axes
    x = F.pad(x, [pad for one in reversed(around or (0,) * axes) for pad in (one, one)])
    for axis in range(axes):
        reach = apart[axis] * (weight.shape[2 + axis] - 1) + 1
        x = x.unfold(2 + axis, reach, step[axis])[..., :: apart[axis]]
    parts = []
    for channels, kernels in zip(x.chunk(groups, 1), weight.chunk(groups), strict=True):
        parts.append(
            (channels[:, None].flatten(-axes) * kernels.flatten(2).view(1, *kernels.shape[:2], *[1] * axes, -1)).sum(
                (2, -1)
            )
        )
    return torch.cat(parts, 1)


CASES: dict[str, Case] = {
    "conv1d": ([LINE], lambda x: F.conv1d(x, W1), lambda x: convolved(x, W1, (1,))),
    "conv1d with all": (
        [LINE],
        lambda x: F.conv1d(x, W1, BIAS[:3], 2, 1, 2),
        lambda x: convolved(x, W1, (2,), (1,), (2,)) + BIAS[:3, None],
    ),
    "conv2d": ([PLANE], lambda x: F.conv2d(x, W2, BIAS), lambda x: convolved(x, W2, (1, 1)) + BIAS[:, None, None]),
    "conv2d with a step for each": (
        [PLANE],
        lambda x: F.conv2d(x, W2, stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
        lambda x: convolved(x, W2, (2, 1), (0, 2), (1, 2)),
    ),
    "conv2d with a list of one": (
        [PLANE],
        lambda x: F.conv2d(x, W2, None, [2], [1], [2]),
        lambda x: convolved(x, W2, (2, 2), (1, 1), (2, 2)),
    ),
    "conv2d in groups": (
        [PLANE],
        lambda x: F.conv2d(x, GROUPED, None, 1, 0, 1, 2),
        lambda x: convolved(x, GROUPED, (1, 1), groups=2),
    ),
    "conv3d": (
        [CUBE],
        lambda x: F.conv3d(x, W3, BIAS[:2], padding=1, stride=2),
        lambda x: convolved(x, W3, (2, 2, 2), (1, 1, 1)) + BIAS[:2, None, None, None],
    ),
    "conv2d with a word for its padding": (
        [PLANE],
        lambda x: F.conv2d(x, W2[..., :1], padding="same"),
        lambda x: convolved(x, W2[..., :1], (1, 1), (1, 0)),
    ),
    "conv2d without a batch": (
        [PLANE],
        lambda x: F.conv2d(x[0], W2, BIAS),
        lambda x: convolved(x[:1], W2, (1, 1))[0] + BIAS[:, None, None],
    ),
    "conv2d with weights of its own": (
        [PLANE, W2],
        lambda x, w: F.conv2d(x, w, BIAS, (2, 1), (0, 2), (1, 2)),
        lambda x, w: one_by_one(lambda x, w: convolved(x, w, (2, 1), (0, 2), (1, 2)), x, w) + BIAS[:, None, None],
    ),
    "conv2d in groups with weights of its own": (
        [PLANE, GROUPED],
        lambda x, w: F.conv2d(x, w, groups=2),
        lambda x, w: one_by_one(lambda x, w: convolved(x, w, (1, 1), groups=2), x, w),
    ),
    "conv2d with a bias of its own": (
        [PLANE, BIAS],
        lambda x, b: F.conv2d(x, W2, b),
        lambda x, b: convolved(x, W2, (1, 1)) + b[:, None, None],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_a_rule_hands_on(name):
    inputs, operation, by_hand = CASES[name]
    found = decompose(operation, inputs)
    assert_of_one_kind(found, operation(*inputs))
    assert_decomposes(found, inputs, by_hand)


def test_what_a_convolution_was_given_is_not_kept():
    z = PLANE.clone().requires_grad_().clone()
    with FrozenGates():
        value = F.conv2d(z, W2, BIAS)
    assert type(value.grad_fn).__name__ == "FrozenConvolutionBackward"
    assert [one.shape for one in value.grad_fn.saved_tensors] == [W2.shape]


def test_under_autocast_it_computes_as_the_network_does():
    x, weight = PLANE.float(), W2.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = x.clone().requires_grad_().clone()
        with FrozenGates():
            value = F.conv2d(z, weight)
        plain = F.conv2d(x, weight)
    assert value.dtype == plain.dtype == torch.bfloat16
    assert torch.equal(value, plain)
