"""Activations and gates in every form of their arguments and in every precision, against values worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.frozen_function import assert_decomposes, assert_of_one_kind, decompose, held, number
from xai_align import read_out
from xai_align.pinet.gates import gate_rules
from xai_align.pinet.gates.frozen_gates import FrozenGates

A, B, W = number(1, 3, 4), number(2, 3, 4), number(3, 3, 4) + 1
#: From 0 on both sides, without it.
POSITIVE = A.abs() + 0.25
EXPONENTS = torch.tensor([2.0, 0.0, -1.0, 1.0], dtype=torch.float64)

Case = tuple[list[Tensor], Callable[..., Any], Callable[..., Any]]


@pytest.fixture(autouse=True)
def forget():
    """Values at zero are computed anew."""
    gate_rules._number_at_zero.cache_clear()


def activation(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``x * stop((f(x) - f(0)) / x) + f(0)``."""

    def by_hand(x: Tensor) -> Tensor:
        offset = f(torch.zeros_like(x)).detach()
        return x * held(f(x) - offset, x) + offset

    return by_hand


def scaled(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: x * held(f(x), x)


def written(write: Callable[..., Any]) -> Callable[..., Tensor]:
    """``write(h, ...)`` as a statement."""

    def function(x: Tensor, *more: Tensor) -> Tensor:
        h = x + 0.5
        write(h, *more)
        return h

    return function


def celu_2(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 2 * ((x / 2).exp() - 1))


CASES: dict[str, Case] = {
    "softplus": ([A], F.softplus, lambda x: x * held((1 + x.exp()).log() - math.log(2), x) + math.log(2)),
    "softplus with options": (
        [A],
        lambda x: F.softplus(x, beta=2.0, threshold=1.0),
        activation(lambda x: torch.where(2 * x > 1, x, (1 + (2 * x).exp()).log() / 2)),
    ),
    "hardtanh": ([A], lambda x: F.hardtanh(x, 0.5, 0.75), lambda x: x * held(x.clamp(0.5, 0.75) - 0.5, x) + 0.5),
    "threshold": (
        [A],
        lambda x: F.threshold(x, 0.125, 17.5),
        lambda x: x * held(torch.where(x > 0.125, x, 17.5) - 17.5, x) + 17.5,
    ),
    "relu onto small values": ([A], lambda x: (x + 0.5).relu(), lambda x: (x + 0.5) * (x + 0.5 > 0)),
    "relu written onto small values": (
        [A],
        written(lambda h: h.relu_()),
        lambda x: (x + 0.5) * (x + 0.5 > 0),
    ),
    "clamp between numbers": (
        [A],
        lambda x: x.clamp(0.25, 0.5),
        lambda x: x * held(x.clamp(0.25, 0.5) - 0.25, x) + 0.25,
    ),
    "clamp between constant tensors": (
        [A],
        lambda x: x.clamp(W, W + 0.5),
        activation(lambda x: torch.where(x < W, W, torch.where(x > W + 0.5, W + 0.5, x))),
    ),
    "clamp below a constant tensor": (
        [A],
        lambda x: x.clamp(max=W),
        lambda x: x * held(x.minimum(W) - W.clamp(max=0), x) + W.clamp(max=0),
    ),
    "clamp_ above a constant tensor": (
        [A],
        written(lambda h: h.clamp_(min=W)),
        lambda x: (x + 0.5) * held((x + 0.5).maximum(W) - W.clamp(min=0), x + 0.5) + W.clamp(min=0),
    ),
    "clamp between bounds of its own": (
        [A, B, W],
        lambda x, low, high: x.clamp(low, low + high.abs()),
        lambda x, low, high: torch.where(
            x < low, low, torch.where(x > low + high.abs(), low + high * high.sign().detach(), x)
        ),
    ),
    "clamp below a bound of its own": (
        [A, B],
        lambda x, high: x.clamp(max=high),
        lambda x, high: torch.where(x <= high, x, high),
    ),
    "clamp_ below a bound of its own": (
        [A, B],
        written(lambda h, high: h.clamp_(max=high)),
        lambda x, high: torch.where(x + 0.5 <= high, x + 0.5, high),
    ),
    "clamp_ above a bound of its own": (
        [A, B],
        written(lambda h, low: h.clamp_(low)),
        lambda x, low: torch.where(x + 0.5 >= low, x + 0.5, low),
    ),
    "clamp_ below a number": (
        [A],
        written(lambda h: h.clamp_(max=-0.25)),
        lambda x: (x + 0.5) * held((x + 0.5).clamp(max=-0.25) + 0.25, x + 0.5) - 0.25,
    ),
    "celu_ with an option": ([A], written(lambda h: torch.celu_(h, 2.0)), lambda x: scaled(celu_2)(x + 0.5)),
    "leaky_relu in place by names": (
        [A],
        written(lambda h: F.leaky_relu(h, negative_slope=0.25, inplace=True)),
        lambda x: scaled(lambda h: torch.where(h > 0, h, 0.25 * h))(x + 0.5),
    ),
    "frac": ([A], torch.frac, lambda x: x - x.trunc().detach()),
    "logaddexp": (
        [A, B],
        torch.logaddexp,
        lambda a, b: logsumexp(torch.stack([a, b]), 0)[0],
    ),
    "logaddexp of nothing": (
        [A, B],
        lambda a, b: torch.logaddexp(a.masked_fill(W > 1, -math.inf), b),
        lambda a, b: torch.where(W > 1, b, logsumexp(torch.stack([a, b]), 0)[0]),
    ),
    "clamp_max": ([A, B], torch.clamp_max, lambda x, high: torch.where(x <= high, x, high)),
    "clamp_min": ([A, B], torch.clamp_min, lambda x, low: torch.where(x >= low, x, low)),
    "logit with a bound": (
        [A],
        lambda x: torch.special.logit(x, eps=0.125),
        lambda x: torch.logit(x.detach().clamp(0.125, 0.875)),
    ),
    "softmax of a part": ([A], lambda x: x.softmax(0) + x, lambda x: x.softmax(0).detach() + x),
    "a constant to the power of x": ([A], lambda x: POSITIVE**x, lambda x: (POSITIVE**x).detach()),
    "x to the power of 1": ([A], lambda x: x**1, lambda x: x),
    "x to the power of 0": ([A], lambda x: x**0 + x, lambda x: 1 + x),
    "x to the power of 0.5": ([POSITIVE], lambda x: x**0.5, lambda x: x * x.rsqrt().detach()),
    "x to the power of a tensor": (
        [POSITIVE],
        lambda x: x**EXPONENTS,
        lambda x: torch.stack([x[:, 0] * x[:, 0].detach(), x[:, 1] * 0 + 1, 1 / x[:, 2].detach(), x[:, 3]], 1),
    ),
    "x to a power of its own": ([POSITIVE, A], torch.pow, lambda x, p: power(x, p, p > 0)),
    "prelu of a slope for each": (
        [A],
        lambda x: F.prelu(x, W[0]),
        lambda x: x * held(torch.where(x > 0, x, W[0] * x), x),
    ),
    "glu over the first axis": (
        [number(5, 6, 2)],
        lambda x: F.glu(x, 0),
        lambda x: x[:3] * x[3:].sigmoid().detach(),
    ),
    "glu by its default": ([A], F.glu, lambda x: x[:, :2] * x[:, 2:].sigmoid().detach()),
    "logsumexp kept": ([A], lambda x: x.logsumexp(0, True), lambda x: logsumexp(x, 0)),
    "logsumexp of two axes": ([A], lambda x: x.logsumexp((0, 1)), lambda x: logsumexp(x.flatten(), 0)[0]),
    "logsumexp past minus infinity": (
        [A],
        lambda x: x.masked_fill(W < 0.5, -math.inf)[:, 1:].logsumexp(1),
        lambda x: torch.stack([logsumexp(row[at], 0)[0] for row, at in zip(x[:, 1:], W[:, 1:] >= 0.5, strict=True)]),
    ),
    **{
        f"log_softmax of {axes} axes": (
            [number(6, *[3] * axes)],
            lambda x: F.log_softmax(x),
            lambda x, dim=dim: x - logsumexp(x, dim),
        )
        for axes, dim in ((1, 0), (2, 1), (3, 0), (4, 1))
    },
    "log_softmax over rows": ([A], lambda x: x.log_softmax(0), lambda x: x - logsumexp(x, 0)),
    "log_softmax of one number": ([A], lambda x: F.log_softmax(x[1, 1]) + x[1, 1], lambda x: x[1, 1]),
    "remainder": ([A, POSITIVE], torch.remainder, lambda a, b: a - (a / b).floor().detach() * b),
    "copysign": ([A], lambda x: torch.copysign(x, W), lambda x: x * (x.sign() * W.sign()).detach()),
}  # fmt: skip

FLOWING: dict[str, Case] = {
    "a number to the power of x": ([A], lambda x: 3.0**x, activation(lambda x: 3.0**x)),
    "a constant to the power of x": ([A], lambda x: POSITIVE**x, activation(lambda x: POSITIVE**x)),
    "logit with a bound": (
        [POSITIVE],
        lambda x: torch.special.logit(x, eps=0.125),
        scaled(lambda x: torch.logit(x.clamp(0.125, 0.875))),
    ),
    "x to the power of 0": ([A], lambda x: x**0 + x, lambda x: 1 + x),
    "x to the power of -1": ([POSITIVE], lambda x: x**-1, scaled(lambda x: 1 / x)),
    "x to the power of a tensor": (
        [POSITIVE],
        lambda x: x**EXPONENTS,
        lambda x: power(x, EXPONENTS.expand(3, 4), EXPONENTS != 0),
    ),
}


def power(x: Tensor, exponent: Tensor, flows: Tensor) -> Tensor:
    value = (x**exponent).detach()
    return torch.where(flows, x * held(value, x), value)


def logsumexp(x: Tensor, dim: int) -> Tensor:
    """``sum stop(p) x + stop(H(p))``, kept."""
    p = x.softmax(dim).detach()
    return (p * x).sum(dim, keepdim=True) - torch.xlogy(p, p).sum(dim, keepdim=True)


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("name", CASES)
def test_what_a_rule_hands_on(name):
    inputs, operation, by_hand = CASES[name]
    found = decompose(operation, inputs)
    assert_of_one_kind(found, operation(*inputs))
    assert_decomposes(found, inputs, by_hand)


@pytest.mark.parametrize("name", FLOWING)
def test_what_a_rule_hands_on_where_gates_flow(name):
    inputs, operation, by_hand = FLOWING[name]
    found = decompose(operation, inputs, flowing=True)
    assert_of_one_kind(found, operation(*inputs))
    assert_decomposes(found, inputs, by_hand)


# ---------------------------------------------------------------- precision

#: Where the difference from f(0) has few digits in float32, and few in half precision.
NEAR_ZERO = torch.tensor([1e-4, -3e-4, 2.0, -1.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("function", [F.softplus, torch.sigmoid, F.gelu])
def test_coefficients_near_zero_have_the_digits_of_float32(function, dtype):
    x = NEAR_ZERO.to(dtype)
    gates, z = FrozenGates(flowing=True), x.clone().requires_grad_().clone()
    with gates:
        value = function(z)
    with gates.replay():
        assert function(x).dtype == dtype
    assert value.dtype == dtype
    (slope,) = value.grad_fn.saved_tensors
    assert slope.dtype == torch.float32
    exact = x.double()
    by_hand = (function(exact) - function(torch.zeros_like(exact))) / exact
    assert torch.allclose(slope.double(), by_hand, rtol=1e-6)


@pytest.mark.parametrize("function", [F.gelu, F.silu, torch.tanh])
def test_an_activation_has_the_networks_own_value(function):
    x = number(7, 1000).float()
    assert torch.equal(decompose(function, [x]).outputs[0], function(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_replay_computes_in_the_networks_precision(dtype):
    gates = FrozenGates()
    recorded = torch.tensor([-2.0, 2.0], dtype=dtype).requires_grad_().clone()
    other = torch.tensor([4.0, 4.0], dtype=dtype)
    with gates:
        F.leaky_relu(recorded, 0.5)
        F.hardtanh(recorded, 1.0, 5.0)
    with gates.replay():
        leaky = F.leaky_relu(other, 0.5)
        offset = F.hardtanh(other, 1.0, 5.0)
    assert leaky.dtype == offset.dtype == dtype
    assert leaky.tolist() == [2.0, 4.0]
    assert offset.tolist() == [1.0, 3.0]


def test_log_softmax_in_another_precision():
    x = number(8, 2, 3).float()
    for function in (
        lambda x: F.log_softmax(x, 1, dtype=torch.float64),
        lambda x: torch.log_softmax(x, 1, torch.float64),
        lambda x: x.log_softmax(1, dtype=torch.float64),
    ):
        found = decompose(function, [x]).outputs[0]
        assert found.dtype == torch.float64
        assert torch.allclose(found, x.double().log_softmax(1), rtol=1e-14)


def test_complex_activations():
    # z * stop(tanh(z) / z), of a zero nothing
    a, b = A[:, :3], A[:, 1:]
    found = decompose(lambda a, b: torch.tanh(torch.complex(a, b)).real, [a, b])

    def by_hand(a: Tensor, b: Tensor) -> Tensor:
        z = torch.complex(a, b)
        quotient = torch.where(z == 0, 0, z.tanh() / torch.where(z == 0, 1, z)).detach()
        return a * quotient.real - b * quotient.imag

    assert_decomposes(found, [a, b], by_hand)


# ---------------------------------------------------------------- dropout, messages


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: F.dropout(x, 0.0, training=True),
        lambda x: F.alpha_dropout(x),
        lambda x: F.dropout2d(x[None, None], 0.3, False)[0, 0],
        lambda x: torch.dropout(x, 0.5, False),
        lambda x: torch.dropout(x, 0.5, train=False),
        lambda x: torch.native_dropout(x, 0.5, False)[0],
        lambda x: x * torch.native_dropout(x, 0.5, False)[1],
    ],
)
def test_dropout_that_is_off_is_the_identity(function):
    assert_decomposes(decompose(function, [A]), [A], lambda x: x)


@pytest.mark.parametrize(
    "function",
    [
        F.dropout,
        lambda x: F.dropout(x, 1e-3),
        lambda x: F.feature_alpha_dropout(x, training=True),
        lambda x: torch.dropout(x, 0.5, True),
        lambda x: torch.dropout(x, p=0.5, train=True),
        lambda x: torch.native_dropout(x, 0.5, True),
    ],
)
def test_dropout_at_work_is_refused(function):
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        decompose(function, [A])


def test_what_stops_evidence_is_named():
    for function, name in ((torch.sigmoid, "sigmoid"), (torch.rsqrt, "rsqrt"), (lambda x: x.softmax(1), "softmax")):
        gates, z = FrozenGates(), POSITIVE.clone().requires_grad_().clone()
        gates.trace_stops = True
        with gates:
            function(z)
        assert gates.last_stop == (name, "the network")


def test_dropout_that_is_off_keeps_all():
    kept: list[Tensor] = []
    decompose(lambda x: kept.append(torch.native_dropout(x, 0.5, False)[1]) or x, [A])
    assert torch.equal(kept[0], torch.ones(3, 4, dtype=torch.bool))


class KeepsAll(nn.Module):
    """Drops nothing, and looks at the mask of what was kept."""

    def forward(self, x):
        kept, mask = torch.native_dropout(x, 0.0, True)
        assert mask.dtype == torch.bool
        return torch.where(mask, kept, 0)


def test_the_mask_of_a_dropout_that_keeps_all_is_boolean():
    x = torch.randn(2, 3)
    assert torch.equal(read_out(KeepsAll().eval(), x, 1).contributions[:, 1], x[:, 1])
