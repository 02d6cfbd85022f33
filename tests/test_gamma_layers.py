"""The gamma rule of single layers, against terms that are counted one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.frozen_function import assert_decomposes, assert_of_one_kind, decompose, held, number, one_by_one
from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.gamma_rule import gamma_rules

GAMMA = 0.75
ROWS, LINE, PLANE, CUBE = number(1, 3, 4), number(2, 2, 2, 6), number(3, 2, 4, 6, 5), number(4, 1, 2, 3, 3, 3)
W, BIAS = number(5, 4, 4), number(6, 4)
W1, W2, W3, GROUPED = number(7, 3, 2, 3), number(8, 4, 4, 3, 2), number(9, 2, 2, 2, 2, 2), number(10, 6, 2, 2, 2)

Case = tuple[list[Tensor], Callable[..., Any], Callable[..., Any]]


def favoured(terms: Tensor) -> Tensor:
    """The sum over the last axis: terms with its sign count ``1 + GAMMA``, and all so much that it stays.

    A term of 0 counts half as if it had the sign.
    """
    total = terms.sum(-1)
    agrees = torch.where(terms == 0, 0.5, (terms * total[..., None] > 0).double())
    counted = terms * (1 + GAMMA * agrees).detach()
    return counted.sum(-1) * held(total, counted.sum(-1))


def linear(x: Tensor, w: Tensor) -> Tensor:
    return favoured(x[..., None, :] * w)


def convolved(
    x: Tensor,
    weight: Tensor,
    step: tuple[int, ...],
    around: tuple[tuple[int, int], ...] = (),
    apart: tuple[int, ...] = (1, 1, 1),
    groups: int = 1,
) -> Tensor:
    """The favoured sum over a group's channels and the places of the kernel."""
    axes = weight.dim() - 2
    x = F.pad(x, [pad for one in reversed(around) for pad in one])
    for axis in range(axes):
        reach = apart[axis] * (weight.shape[2 + axis] - 1) + 1
        x = x.unfold(2 + axis, reach, step[axis])[..., :: apart[axis]]
    parts = []
    for channels, kernels in zip(x.chunk(groups, 1), weight.chunk(groups), strict=True):
        terms = channels[:, None].flatten(-axes) * kernels.flatten(2).view(1, *kernels.shape[:2], *[1] * axes, -1)
        parts.append(favoured(terms.movedim(2, -1).flatten(-2)))
    return torch.cat(parts, 1)


CASES: dict[str, Case] = {
    "linear": ([ROWS], lambda x: F.linear(x, W), lambda x: linear(x, W)),
    "linear with a bias": ([ROWS], lambda x: F.linear(x, W, BIAS), lambda x: linear(x, W) + BIAS),
    "linear with weights of its own": (
        [ROWS, W],
        lambda x, w: F.linear(x, w, BIAS),
        lambda x, w: one_by_one(torch.matmul, x, w.mT) + BIAS,
    ),
    "linear with a bias of its own": ([ROWS, BIAS], lambda x, b: F.linear(x, W, b), lambda x, b: x @ W.mT + b),
    "conv1d": (
        [LINE],
        lambda x: F.conv1d(x, W1, BIAS[:3], 2, 1, 2),
        lambda x: convolved(x, W1, (2,), ((1, 1),), (2,)) + BIAS[:3, None],
    ),
    "conv2d": ([PLANE], lambda x: F.conv2d(x, W2), lambda x: convolved(x, W2, (1, 1))),
    "conv2d with a step for each": (
        [PLANE],
        lambda x: F.conv2d(x, W2, BIAS, (2, 1), (0, 2), (1, 2)),
        lambda x: convolved(x, W2, (2, 1), ((0, 0), (2, 2)), (1, 2)) + BIAS[:, None, None],
    ),
    "conv2d in groups": (
        [PLANE],
        lambda x: F.conv2d(x, GROUPED, groups=2),
        lambda x: convolved(x, GROUPED, (1, 1), groups=2),
    ),
    "conv2d without a batch": (
        [PLANE],
        lambda x: F.conv2d(x[0], W2, BIAS),
        lambda x: convolved(x[:1], W2, (1, 1))[0] + BIAS[:, None, None],
    ),
    "conv2d of the same size": (
        [PLANE],
        lambda x: F.conv2d(x, W2, padding="same", dilation=(1, 3)),
        lambda x: convolved(x, W2, (1, 1), ((1, 1), (1, 2)), (1, 3)),
    ),
    "conv2d of the same size, dilated by one number": (
        [PLANE],
        lambda x: F.conv2d(x, W2, padding="same", dilation=2),
        lambda x: convolved(x, W2, (1, 1), ((2, 2), (1, 1)), (2, 2)),
    ),
    "conv2d with a bias of its own": (
        [PLANE, BIAS],
        lambda x, b: F.conv2d(x, W2, b),
        lambda x, b: F.conv2d(x, W2) + b[:, None, None],
    ),
    "conv2d of what is valid": (
        [PLANE],
        lambda x: F.conv2d(x, W2, padding="valid", stride=2),
        lambda x: convolved(x, W2, (2, 2)),
    ),
    "conv2d with weights of its own": (
        [PLANE, W2],
        lambda x, w: F.conv2d(x, w, BIAS, 2, 1),
        lambda x, w: one_by_one(lambda x, w: F.conv2d(x, w, None, 2, 1), x, w) + BIAS[:, None, None],
    ),
    "conv2d in groups with weights of its own": (
        [PLANE, GROUPED],
        lambda x, w: F.conv2d(x, w, None, 1, 0, (2, 1), 2),
        lambda x, w: one_by_one(lambda x, w: F.conv2d(x, w, dilation=(2, 1), groups=2), x, w),
    ),
    "conv3d": (
        [CUBE],
        lambda x: F.conv3d(x, W3, BIAS[:2]),
        lambda x: convolved(x, W3, (1, 1, 1)) + BIAS[:2, None, None, None],
    ),
    "a layer that nothing comes back through": (
        [ROWS],
        lambda x: (F.linear(x, W, BIAS), F.linear(x, W).detach())[0],
        lambda x: linear(x, W) + BIAS,
    ),
    "layers one after the other": (
        [ROWS],
        lambda x: F.linear(F.linear(x, W, BIAS), W.mT, BIAS),
        lambda x: linear(linear(x, W) + BIAS, W.mT) + BIAS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_by_the_gamma_rule(name):
    inputs, operation, by_hand = CASES[name]
    found = decompose(operation, inputs, rules=gamma_rules(GAMMA))
    assert_of_one_kind(found, operation(*inputs))
    assert_decomposes(found, inputs, by_hand)


def test_up_to_where_a_replay_departs_values_are_the_recorded_ones():
    gates, z = FrozenGates(rules=gamma_rules(GAMMA)), ROWS.clone().requires_grad_().clone()
    nothing = torch.zeros_like(ROWS)
    with gates:
        value = F.linear(z, W, BIAS), F.linear(z, W)
    sum(value[1:], value[0]).sum().backward()
    with gates.replay(counterfactual=False):
        before = F.linear(nothing, W, BIAS), F.linear(nothing, W)
    with gates.replay(counterfactual=True):
        after = F.linear(nothing, W, BIAS), F.linear(nothing, W)
    assert torch.equal(before[0], value[0])
    assert torch.equal(after[0], BIAS.expand(3, 4))
    assert torch.equal(after[1], nothing)
    before[1].zero_()  # as a network may
    with gates.replay(counterfactual=False):
        again = F.linear(nothing, W, BIAS), F.linear(nothing, W)
    assert torch.equal(again[1], value[1])


def test_a_layer_that_no_gradient_came_by_has_its_own_value():
    gates, z = FrozenGates(rules=gamma_rules(GAMMA)), ROWS.clone().requires_grad_().clone()
    with gates:
        F.linear(z, W, BIAS)
    twice = 2 * ROWS
    with gates.replay():
        value = F.linear(twice, W, BIAS)
    assert torch.allclose(value, twice @ W.mT + BIAS, rtol=1e-12)


def test_terms_of_nothing_share_nothing():
    x = torch.zeros(1, 4, dtype=torch.float64)
    found = decompose(lambda x: F.linear(x, W), [x], rules=gamma_rules(GAMMA))
    assert found.betas[0].tolist() == [[0.0] * 4]


@pytest.mark.parametrize(
    "operation", [lambda x: F.linear(x, W.float(), BIAS.float()), lambda x: F.linear(x, W.float())]
)
def test_under_autocast_a_layer_computes_as_the_network_does(operation):
    x = ROWS.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gates, z = FrozenGates(rules=gamma_rules(GAMMA)), x.clone().requires_grad_().clone()
        with gates:
            value = operation(z)
        plain = operation(x)
    assert value.dtype == plain.dtype == torch.bfloat16
    assert torch.allclose(value.float(), plain.float(), rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("gamma", [-1e-3, float("nan"), float("inf"), -float("inf")])
def test_a_gamma_that_is_none_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma is"):
        gamma_rules(gamma)


def test_gamma_0_has_no_rules_of_its_own():
    assert gamma_rules(0) == {}
    assert set(gamma_rules(1e-3)) == {torch.conv1d, torch.conv2d, torch.conv3d, F.linear}
