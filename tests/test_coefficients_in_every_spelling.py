"""What every rule hands on: values, coefficients and biases are those of a reference detached by hand, in float64."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from tests.operation_samples import numbers
from xai_align.pinet import gates
from xai_align.pinet.gates.frozen_gates import FrozenGates

Operation = Callable[[Tensor], Tensor]
assert gates.RULES  # loads every rule

#: Zeros of both signs, ties, numbers on either side of every bound, and large ones.
SPECIAL = torch.tensor(
    [[0.0, -0.0, 1.0, 1.0, -1.0, 2.5, -3.0, 40.0], [0.5, 0.5, -0.5, 7.0, 6.0, -30.0, 0.25, 1e-3]], dtype=torch.float64
)
PAIRS = torch.tensor(
    [[0.0, 1.0, -2.0, 3.0, 0.0, 1.0, 2.0, -5.0], [0.5, -0.5, 1.5, 20.0, 0.25, -0.5, 1.5, 4.0]], dtype=torch.float64
)


# ---------------------------------------------------------------- the readout's linear function and the reference's


def decompose(operation: Operation, x: Tensor, *, flowing: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Value, coefficients of its weighted sum, and what the recorded linear function gives at zero."""
    leaf = x.clone().requires_grad_()
    zeros = torch.zeros_like(x)
    gates = FrozenGates(flowing=flowing, separate_views=True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda saved: saved):
        z = leaf.clone()
        with gates:
            value = operation(z)
        total = weighted(value)
    assert total.requires_grad or not value.requires_grad
    beta = torch.autograd.grad(total, leaf)[0] if total.requires_grad else torch.zeros_like(x)
    with gates.replay():
        at_zero = operation(zeros.clone())
    return value.detach(), beta, weighted(at_zero.detach())


def differentiate(reference: Operation, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a reference, which is linear where its detached parts are held."""
    leaf = x.clone().requires_grad_()
    value = reference(leaf.clone())
    total = weighted(value)
    beta = torch.autograd.grad(total, leaf)[0] if total.requires_grad else torch.zeros_like(x)
    return value.detach(), beta, total.detach() - (x * beta).sum()


def weighted(value: Tensor) -> Tensor:
    value = torch.view_as_real(value) if value.is_complex() else value
    weights = torch.rand(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) - 0.3
    return (value * weights).sum()


def assert_agrees(operation: Operation, reference: Operation, x: Tensor, *, flowing: bool = False) -> None:
    plain = operation(x.clone())
    found, wanted = decompose(operation, x, flowing=flowing), differentiate(reference, x)
    for what, a, b in zip(("value", "coefficients", "bias"), found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9), f"{what}: {a} is not {b}"
    assert torch.allclose(found[0], plain, rtol=1e-12, atol=1e-12)


def held(numerator: Tensor, x: Tensor) -> Tensor:
    """``stop(numerator / x)``, and 0 where ``x`` is."""
    return torch.where(x == 0, 0.0, numerator / torch.where(x == 0, 1.0, x)).detach()


def held_quotient(f: Operation) -> Operation:
    """``x stop(f(x) / x)``."""
    return lambda x: x * held(f(x), x)


def activation(f: Operation) -> Operation:
    """``x stop((f(x) - f(0)) / x) + f(0)``, with ``f(0)`` computed apart."""

    def reference(x: Tensor) -> Tensor:
        offset = f(torch.zeros_like(x)).detach()
        return x * held(f(x) - offset, x) + offset

    return reference


def constant(f: Operation) -> Operation:
    return lambda x: f(x.detach())


# ---------------------------------------------------------------- functions of one tensor, in every spelling

SMALL = SPECIAL.clamp(-3, 3) / 4  # within the domain of asin, atanh ...
POSITIVE = SPECIAL.abs() + torch.tensor([0.25, 1.0], dtype=torch.float64)[:, None]

#: name -> (further arguments, reference, where)
ONE: dict[str, tuple[tuple[Any, ...], Operation, Tensor]] = {
    "relu": ((), lambda x: x * (x > 0), SPECIAL),
    "leaky_relu": ((0.2,), lambda x: torch.where(x > 0, x, 0.2 * x) * (x != 0), SPECIAL),
    "relu6": ((), lambda x: x * held(x.clamp(0, 6), x), SPECIAL),
    "hardtanh": ((1.0, 2.0), lambda x: x * held(x.clamp(1, 2) - 1, x) + 1, SPECIAL),
    "clamp": ((1.0, 2.0), lambda x: x * held(x.clamp(1, 2) - 1, x) + 1, SPECIAL),
    "clip": ((-0.5, 2.0), lambda x: x * held(x.clamp(-0.5, 2), x), SPECIAL),
    "clamp_min": ((0.75,), lambda x: x * held(x.clamp(min=0.75) - 0.75, x) + 0.75, SPECIAL),
    "clamp_max": ((-0.75,), lambda x: x * held(x.clamp(max=-0.75) + 0.75, x) - 0.75, SPECIAL),
    "threshold": ((0.3, 20.0), lambda x: x * held(torch.where(x > 0.3, x, 20.0) - 20, x) + 20, SPECIAL),
    "softplus": (
        (),
        lambda x: x * held(F.softplus(x) - torch.tensor(2.0).double().log(), x) + torch.tensor(2.0).double().log(),
        SPECIAL,
    ),
    "abs": ((), lambda x: x * x.sign().detach(), SPECIAL),
    "absolute": ((), lambda x: x * x.sign().detach(), SPECIAL),
    "square": ((), lambda x: x * x.detach(), SPECIAL),
    "sqrt": ((), lambda x: x * x.detach() ** -0.5, POSITIVE),
    "pow": ((3,), lambda x: x * x.detach() ** 2, SPECIAL),
    "float_power": ((2.0,), lambda x: x * x.detach(), SPECIAL),
    "frac": ((), lambda x: x - x.trunc().detach(), SPECIAL),
    "negative": ((), lambda x: -x, SPECIAL),
    "nan_to_num": ((), lambda x: x * (x != 0), SPECIAL),
    "hardswish": ((), lambda x: x * ((x + 3).clamp(0, 6) / 6).detach() * (x != 0), SPECIAL),
    "silu": ((), lambda x: x * x.sigmoid().detach() * (x != 0), SPECIAL),
    "logsumexp": ((1,), lambda x: (x * x.softmax(1).detach()).sum(1) + entropy(x).detach(), SPECIAL),
    "log_softmax": ((1,), lambda x: x - ((x * x.softmax(1).detach()).sum(1) + entropy(x).detach())[:, None], SPECIAL),
    "softmax": ((1,), lambda x: x.softmax(1).detach(), SPECIAL),
    "prod": ((1,), lambda x: kth_each_way(x, 8)[:, -1], SMALL + 0.1),
    "cumprod": ((1,), lambda x: kth_each_way(x, 8), SMALL + 0.1),
    "round": ((), lambda x: x.round().detach(), SPECIAL),
    "sign": ((), lambda x: x.sign().detach(), SPECIAL),
    "amax": ((1,), lambda x: x.gather(1, x.argmax(1)[:, None])[:, 0], SPECIAL),
    "amin": ((1,), lambda x: x.gather(1, x.argmin(1)[:, None])[:, 0], SPECIAL),
    "norm": ((), lambda x: x.norm().detach(), SPECIAL),
}


def function(name: str) -> Operation:
    return getattr(F, name, None) or getattr(torch, name)


NATURAL = "gelu mish elu selu celu softsign tanh tanhshrink hardshrink softshrink sin sinh atan asinh expm1"
ONE |= {name: ((), activation(function(name)), SPECIAL.clamp(-4, 4)) for name in NATURAL.split()}
ONE |= {name: ((), activation(getattr(torch, name)), SMALL) for name in "asin atanh tan log1p erfinv".split()}
GATES = "sigmoid hardsigmoid logsigmoid exp exp2 erf erfc cos cosh"
ONE |= {name: ((), constant(function(name)), SPECIAL.clamp(-4, 4)) for name in GATES.split()}
ONE |= {name: ((), constant(getattr(torch, name)), POSITIVE) for name in "log log2 log10 rsqrt reciprocal".split()}
ONE["acosh"] = ((), constant(torch.acosh), POSITIVE + 1)
FLOWING = {name: activation(function(name)) for name in GATES.split()}
FLOWING |= {name: (held_quotient(getattr(torch, name))) for name in "log log2 rsqrt reciprocal".split()}
FLOWING["acosh"] = lambda x: x * held(torch.acosh(x), x)


def entropy(x: Tensor) -> Tensor:
    p = x.softmax(1)
    return -(p * x.log_softmax(1)).sum(1)


def kth_each_way(x: Tensor, count: int) -> Tensor:
    """``cumprod``, by hand: the mean over the factors of each product with all others detached."""
    columns = []
    for k in range(1, count + 1):
        turns = [
            torch.stack([x[:, i] if i == alive else x[:, i].detach() for i in range(k)]).prod(0) for alive in range(k)
        ]
        columns.append(torch.stack(turns).mean(0))
    return torch.stack(columns, 1)


def spellings(name: str, arguments: tuple[Any, ...]) -> dict[str, Operation]:
    """Every way to write this function; those that write into ``x`` give ``x`` back as a statement would leave it."""
    found: dict[str, Operation] = {}

    def writing(method: Callable[..., Any]) -> Operation:
        def statement(x: Tensor) -> Tensor:
            method(x, *arguments)
            return x

        return statement

    for home, where in ((torch, "torch"), (F, "functional"), (Tensor, "method"), (torch.special, "special")):
        func, inplace = getattr(home, name, None), getattr(home, f"{name}_", None)
        if func is not None:
            found[where] = lambda x, func=func: func(x, *arguments)
        if inplace is not None:
            found[f"{where} in place"] = writing(inplace)
    flagged = getattr(F, name, None)
    if flagged is not None and "inplace" in getattr(getattr(flagged, "__code__", None), "co_varnames", ()):
        found["inplace=True"] = writing(lambda x, *more: flagged(x, *more, inplace=True))
    if hasattr(torch, name) and name not in ("celu", "selu", "threshold", "softmax", "log_softmax", "rrelu"):
        found["out"] = lambda x: getattr(torch, name)(x, *arguments, out=torch.empty(0, dtype=x.dtype))
    for packet in (getattr(torch.ops.aten, name, None), getattr(torch.ops.aten, f"{name}_", None)):
        if packet is not None and "default" in packet.overloads():
            func = packet.default
            found[f"aten.{packet.__name__}"] = lambda x, func=func: func(x, *arguments)
    return found


def usable(operation: Operation, x: Tensor) -> bool:
    try:
        return operation(x.clone()).dtype == torch.float64
    except (RuntimeError, TypeError):
        return False


@pytest.mark.parametrize("name", ONE)
def test_functions_of_one_tensor(name):
    arguments, reference, x = ONE[name]
    ways = {way: one for way, one in spellings(name, arguments).items() if usable(one, x)}
    assert ways
    for way, operation in ways.items():
        try:
            assert_agrees(operation, reference, x)
        except Exception as error:
            raise AssertionError(f"{name} as {way}: {error}") from error


@pytest.mark.parametrize("name", ONE)
def test_functions_of_one_tensor_written_into_views(name):
    arguments, reference, x = ONE[name]
    inplace = getattr(Tensor, f"{name}_", None) or getattr(F, f"{name}_", None)
    if inplace is None or not usable(lambda x: inplace(x, *arguments), x):
        pytest.skip("no such spelling")
    row_by_row = name in ("cumprod",)

    def slice_written(x: Tensor) -> Tensor:
        inplace(x[:, :4], *arguments)
        return x

    def chunk_written(x: Tensor) -> Tensor:
        inplace(x.chunk(2, 1)[1], *arguments)
        return x

    def row_written(x: Tensor) -> Tensor:
        inplace(x.unbind(0)[1], *arguments)
        return x

    assert_agrees(slice_written, lambda x: torch.cat([part(reference, x[:, :4]), x[:, 4:]], 1), x)
    assert_agrees(chunk_written, lambda x: torch.cat([x[:, :4], part(reference, x[:, 4:])], 1), x)
    if not row_by_row:
        assert_agrees(row_written, lambda x: torch.cat([x[:1], reference(x[1:])]), x)


def part(reference: Operation, x: Tensor) -> Tensor:
    return kth_each_way(x, 4) if reference is ONE["cumprod"][1] else reference(x)


@pytest.mark.parametrize("name", FLOWING)
def test_gates_that_flow(name):
    arguments, _, x = ONE[name]
    for way, operation in spellings(name, arguments).items():
        if usable(operation, x) and way != "out":
            assert_agrees(operation, FLOWING[name], x, flowing=True)


# ---------------------------------------------------------------- functions of two tensors, in every spelling


def each_way(a: Tensor, b: Tensor) -> Tensor:
    return (a * b.detach() + a.detach() * b) / 2


#: name -> reference of the two halves of x
TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "sub": lambda a, b: a - b,
    "mul": each_way,
    "div": lambda a, b: a / b.detach(),
    "true_divide": lambda a, b: a / b.detach(),
    "maximum": lambda a, b: torch.where(a >= b, a, b),
    "minimum": lambda a, b: torch.where(a <= b, a, b),
    "fmax": lambda a, b: torch.where(a >= b, a, b),
    "fmin": lambda a, b: torch.where(a <= b, a, b),
    "max": lambda a, b: torch.where(a >= b, a, b),
    "min": lambda a, b: torch.where(a <= b, a, b),
    "clamp_min": lambda a, b: torch.where(a >= b, a, b),
    "clamp_max": lambda a, b: torch.where(a <= b, a, b),
    "hypot": lambda a, b: a * held(a, torch.hypot(a, b)) + b * held(b, torch.hypot(a, b)),
    "copysign": lambda a, b: a * (torch.copysign(torch.ones_like(a), b) * a.sign()).detach(),
    "remainder": lambda a, b: a - torch.floor(a / b).detach() * b,
    "fmod": lambda a, b: a - torch.trunc(a / b).detach() * b,
    "atan2": lambda a, b: torch.atan2(a, b).detach(),
    "xlogy": lambda a, b: torch.xlogy(a, b.detach()),
    "logaddexp": lambda a, b: logaddexp(a, b),
    "pow": lambda a, b: a * held(a ** b.detach(), a),
    "floor_divide": lambda a, b: torch.floor(a / b).detach(),
    "dist": lambda a, b: (a - b).norm().detach(),
}
DOMAINS = {
    **dict.fromkeys(("div", "true_divide", "remainder", "fmod", "floor_divide"), (PAIRS, PAIRS.abs() + 1.5)),
    **dict.fromkeys(("xlogy", "pow"), (PAIRS.abs(), PAIRS.abs() + 0.5)),
}
OPERATORS = {
    "add": (operator.add, operator.iadd),
    "sub": (operator.sub, operator.isub),
    "mul": (operator.mul, operator.imul),
    "div": (operator.truediv, operator.itruediv),
    "pow": (operator.pow, operator.ipow),
    "remainder": (operator.mod, operator.imod),
    "floor_divide": (operator.floordiv, operator.ifloordiv),
}


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    p = (a - b).sigmoid().detach()
    entropy = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))
    return p * a + (1 - p) * b + entropy


def two_spellings(name: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    for home in (torch, Tensor):
        for spelled in (name, f"{name}_"):
            func = getattr(home, spelled, None)
            if func is not None:
                found[f"{home.__name__}.{spelled}"] = func
    if hasattr(torch, name) and name != "dist":
        found["out"] = lambda a, b: getattr(torch, name)(a, b, out=torch.empty(0, dtype=a.dtype))
    for one in OPERATORS.get(name, ()):
        found[one.__name__] = one
    for packet in (getattr(torch.ops.aten, name, None), getattr(torch.ops.aten, f"{name}_", None)):
        for overload in ("Tensor", "default", "Tensor_Tensor", "other"):
            if packet is not None and overload in packet.overloads():
                found[f"aten.{packet.__name__}.{overload}"] = getattr(packet, overload)
    return found


@pytest.mark.parametrize("name", TWO)
def test_functions_of_two_tensors(name):
    first, second = DOMAINS.get(name, (PAIRS, PAIRS))
    x = torch.cat([first[:, :4], second[:, 4:]], 1)
    for way, func in two_spellings(name).items():
        operation = lambda x, func=func: func(x[:, :4].clone(), x[:, 4:])  # noqa: E731
        if not usable(operation, x):
            continue
        try:
            assert_agrees(operation, lambda x: TWO[name](x[:, :4], x[:, 4:]), x)
        except Exception as error:
            raise AssertionError(f"{name} as {way}: {error}") from error


@pytest.mark.parametrize("name", [name for name in TWO if hasattr(Tensor, f"{name}_")])
def test_functions_of_two_tensors_written_into_views(name):
    first, second = DOMAINS.get(name, (PAIRS, PAIRS))
    x = torch.cat([first[:, :4], second[:, 4:]], 1)

    def written(x: Tensor) -> Tensor:
        getattr(x[:, :4], f"{name}_")(x[:, 4:])
        return x

    assert_agrees(written, lambda x: torch.cat([TWO[name](x[:, :4], x[:, 4:]), x[:, 4:]], 1), x)


# ---------------------------------------------------------------- everything else, one by one

W = numbers(4, 4, seed=8)
V = numbers(6, 4, seed=9)
BOXES = torch.tensor([[0.0, 0.5, 0.5, 4.5, 4.0]], dtype=torch.float64)
slope = torch.tensor([0.3], dtype=torch.float64)


def normed(x: Tensor, dims: Any, eps: float = 1e-5) -> Tensor:
    sigma = (x.var(dims, correction=0, keepdim=True) + eps).sqrt().detach()
    return (x - x.mean(dims, keepdim=True)) / sigma


def attended(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    scores = q @ k.mT * scale
    scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).detach() @ v


def heads(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x @ W, x @ W.mT, x * 2


causal = torch.ones(5, 5, dtype=torch.bool).tril()
ROWS, TOKENS, IMAGES = numbers(3, 4), numbers(2, 5, 4), numbers(2, 4, 6, 6)
DISTINCT = torch.linspace(1, 2, 48, dtype=torch.float64).view(12, 4)


def addmm_written(x: Tensor) -> Tensor:
    m = x @ W
    m.addmm_(x, x[:4] @ W, beta=0.5, alpha=2) if len(x) == 4 else None
    return m


def statement(write: Callable[[Tensor, Tensor], Any]) -> Operation:
    """``write(h, b(h))`` as a statement, h going on."""

    def run(x: Tensor) -> Tensor:
        h = x @ W
        write(h, h @ W)
        return h

    return run


def of_pair(reference: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return lambda x: reference(x @ W, x @ W @ W)


def sum_and_products(x: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
    return beta * x + alpha * (a @ b.detach() + a.detach() @ b) / 2


def lerped(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    return a + each_way(w, b) - each_way(w, a)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).detach()


def norm_flowing(d: Tensor, p: float) -> Tensor:
    """Euler: ``sum_i d_i stop(df/dd_i)`` of the p-norm over the last axis."""
    size = d.norm(p, dim=-1, keepdim=True)
    return (d * held(d.abs() ** (p - 1) * d.sign(), size ** (p - 1))).sum(-1)


#: name -> (operation, reference, x)
OTHERS: dict[str, tuple[Operation, Operation, Tensor]] = {
    "glu": (lambda x: F.glu(x, 1), lambda x: x[:, :4] * x[:, 4:].sigmoid().detach(), PAIRS),
    "aten.glu": (lambda x: torch.ops.aten.glu.default(x, 1), lambda x: x[:, :4] * x[:, 4:].sigmoid().detach(), PAIRS),
    "prelu": (lambda x: F.prelu(x, slope), lambda x: torch.where(x > 0, x, 0.3 * x) * (x != 0), SPECIAL),
    "prelu as a method": (lambda x: x.prelu(slope), lambda x: torch.where(x > 0, x, 0.3 * x) * (x != 0), SPECIAL),
    "rrelu": (lambda x: F.rrelu(x, 0.1, 0.3), lambda x: torch.where(x > 0, x, 0.2 * x) * (x != 0), SPECIAL),
    "x ** tensor": (lambda x: x ** torch.tensor(2.0), lambda x: x * x.detach(), SPECIAL),
    "x ** [2, -1]": (
        lambda x: (x.abs() + 1) ** torch.tensor([2.0, -1.0]).double().repeat(4),
        lambda x: torch.where(
            torch.arange(8) % 2 == 0, (x * x.sign().detach() + 1) * (x.abs() + 1).detach(), (1 / (x.abs() + 1)).detach()
        ),
        SPECIAL,
    ),
    "x ** -1 is a scale": (lambda x: x**-1.0, lambda x: (1 / x).detach(), POSITIVE),
    "2 ** x is a gate": (lambda x: 2.0**x, lambda x: (2.0**x).detach(), SPECIAL.clamp(max=9)),
    "1 / x is a scale": (lambda x: 1 / x, lambda x: (1 / x).detach(), POSITIVE),
    "1 - x": (lambda x: 1 - x, lambda x: 1 - x, SPECIAL),
    "matmul": (lambda x: x @ x.mT, lambda x: (x @ x.mT.detach() + x.detach() @ x.mT) / 2, ROWS),
    "bmm": (lambda x: torch.bmm(x, x.mT), lambda x: (x @ x.mT.detach() + x.detach() @ x.mT) / 2, TOKENS),
    "linear with weights of its own": (
        lambda x: F.linear(x, x @ W, x[:, 0]),
        lambda x: (x @ (x @ W).mT.detach() + x.detach() @ (x @ W).mT) / 2 + x[:, 0],
        ROWS,
    ),
    "linear by name": (
        lambda x: F.linear(weight=x @ W, input=x),
        lambda x: (x @ (x @ W).mT.detach() + x.detach() @ (x @ W).mT) / 2,
        ROWS,
    ),
    "conv2d with weights of its own": (
        lambda x: F.conv2d(x, x[:, :, :3, :3], padding=1),
        lambda x: (
            (F.conv2d(x, x[:, :, :3, :3].detach(), padding=1) + F.conv2d(x.detach(), x[:, :, :3, :3], padding=1)) / 2
        ),
        IMAGES,
    ),
    "einsum of three": (
        lambda x: torch.einsum("ij,ij,ij->i", x, x + 1, x - 1),
        lambda x: (
            sum(
                a * b.detach() * c.detach() for a, b, c in ((x, x + 1, x - 1), (x + 1, x, x - 1), (x - 1, x, x + 1))
            ).sum(1)
            / 3
        ),
        ROWS,
    ),
    "multi_dot": (
        lambda x: torch.linalg.multi_dot([x, x.mT, x]),
        lambda x: (x @ (x.mT @ x).detach() + x.detach() @ x.mT @ x.detach() + (x @ x.mT).detach() @ x) / 3,
        ROWS,
    ),
    "trapezoid with widths": (
        lambda x: torch.trapezoid(x, x + 2),
        lambda x: (torch.trapezoid(x, (x + 2).detach()) + torch.trapezoid(x.detach(), x + 2)) / 2,
        ROWS,
    ),
    "det": (
        lambda x: torch.det(x @ W),
        lambda x: ((x @ W) * torch.autograd.functional.jacobian(torch.det, (x @ W).detach())).sum() / 4,
        W + 1,
    ),
    "cosine_similarity": (
        lambda x: F.cosine_similarity(x, x @ W, -1),
        lambda x: each_way(unit(x), unit(x @ W)).sum(-1),
        ROWS,
    ),
    "cosine_similarity to a constant": (
        lambda x: F.cosine_similarity(x[:, None], V[None], -1),
        lambda x: (unit(x)[:, None] * unit(V)).sum(-1),
        ROWS,
    ),
    "layer_norm": (lambda x: F.layer_norm(x, (4,), W[0], W[1]), lambda x: normed(x, (-1,)) * W[0] + W[1], ROWS),
    "layer_norm with weights of its own": (
        lambda x: F.layer_norm(x, (4,), x[0]),
        lambda x: each_way(normed(x, (-1,)), x[0]),
        ROWS,
    ),
    "aten.layer_norm": (
        lambda x: torch.ops.aten.layer_norm.default(x, [4], W[0], W[1]),
        lambda x: normed(x, (-1,)) * W[0] + W[1],
        ROWS,
    ),
    "group_norm": (
        lambda x: F.group_norm(x, 2, W[0], W[1]),
        lambda x: normed(x.unflatten(1, (2, 2)), (2, 3, 4)).flatten(1, 2) * W[0, :, None, None] + W[1, :, None, None],
        IMAGES,
    ),
    "instance_norm": (lambda x: F.instance_norm(x), lambda x: normed(x, (2, 3)), IMAGES),
    "rms_norm": (
        lambda x: F.rms_norm(x, (4,), W[0]),
        lambda x: x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt().detach() * W[0],
        ROWS,
    ),
    "batch_norm": (
        lambda x: F.batch_norm(x, W[0], W[1].abs() + 0.1, W[2], W[3]),
        lambda x: (x - W[0]) / (W[1].abs() + 0.1 + 1e-5).sqrt() * W[2] + W[3],
        ROWS,
    ),
    "normalize": (lambda x: F.normalize(x, dim=-1), lambda x: unit(x), ROWS),
    "var and mean": (
        lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
        lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True).detach(),
        ROWS,
    ),
    "attention": (lambda x: F.scaled_dot_product_attention(*heads(x)), lambda x: attended(*heads(x), 0.5), TOKENS),
    "attention, causal": (
        lambda x: F.scaled_dot_product_attention(*heads(x), is_causal=True),
        lambda x: attended(*heads(x), 0.5, causal),
        TOKENS,
    ),
    "attention with a scale": (
        lambda x: F.scaled_dot_product_attention(*heads(x), scale=0.1),
        lambda x: attended(*heads(x), 0.1),
        TOKENS,
    ),
    "aten attention, causal with a scale": (
        lambda x: torch.ops.aten.scaled_dot_product_attention.default(*heads(x), None, 0.0, True, scale=0.1),
        lambda x: attended(*heads(x), 0.1, causal),
        TOKENS,
    ),
    "max_pool2d": (
        lambda x: F.max_pool2d(x, 2),
        lambda x: (lambda u: u.gather(-1, u.argmax(-1, keepdim=True))[..., 0])(windows(x)),
        IMAGES.round(),
    ),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), lambda x: windows(x).mean(-1), IMAGES),
    "adaptive_max_pool2d": (
        lambda x: F.adaptive_max_pool2d(x, 3),
        lambda x: (lambda u: u.gather(-1, u.argmax(-1, keepdim=True))[..., 0])(windows(x)),
        IMAGES,
    ),
    "lp_pool2d": (
        lambda x: F.lp_pool2d(x.square(), 2, 2),
        lambda x: norm_flowing(windows(x * x.detach()), 2),
        IMAGES,
    ),
    "max over an axis": (lambda x: x.max(1).values, lambda x: x.gather(1, x.max(1).indices[:, None])[:, 0], SPECIAL),
    "max of all": (lambda x: x.max(), lambda x: x.flatten()[x.argmax()], SPECIAL),
    "aminmax": (
        lambda x: torch.cat(x.aminmax(dim=1)),
        lambda x: torch.cat([x.gather(1, x.argmin(1)[:, None])[:, 0], x.gather(1, x.argmax(1)[:, None])[:, 0]]),
        SPECIAL,
    ),
    "median": (lambda x: x.median(), lambda x: x.flatten()[x.flatten().sort().indices[23]], DISTINCT),
    "median over an axis": (lambda x: x.median(0).values, lambda x: x.sort(0).values[5], DISTINCT),
    "sort": (lambda x: x.sort(0, descending=True).values, lambda x: x.gather(0, x.argsort(0, descending=True)), ROWS),
    "topk": (lambda x: x.topk(2, 1).values, lambda x: x.gather(1, x.argsort(1, descending=True)[:, :2]), ROWS),
    "cummax": (lambda x: x.cummax(1).values, lambda x: x.gather(1, x.cummax(1).indices), ROWS),
    "where": (lambda x: torch.where(x > 0.2, x, -x), lambda x: torch.where(x > 0.2, x, -x), SPECIAL),
    "clamp to bounds of its own": (
        lambda x: x[:, :4].clamp(min=x[:, 4:]),
        lambda x: torch.where(x[:, :4] >= x[:, 4:], x[:, :4], x[:, 4:]),
        PAIRS,
    ),
    "complex magnitude": (
        lambda x: torch.complex(x, x @ W).abs(),
        lambda x: (x * x.detach() + (x @ W) * (x @ W).detach()) / torch.hypot(x, x @ W).detach(),
        ROWS,
    ),
    "torch.complex": (lambda x: torch.complex(x, x @ W), lambda x: x + 1j * (x @ W), ROWS),
    "grid_sample": (
        lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False),
        lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).tanh().detach(), align_corners=False),
        IMAGES,
    ),
    "roi_align": (
        lambda x: torchvision.ops.roi_align(x, BOXES + x.mean() * 0.1, 2),
        lambda x: torchvision.ops.roi_align(x, (BOXES + x.mean() * 0.1).detach(), 2),
        IMAGES,
    ),
    "max_unpool2d of overlapping windows": (
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 3, 1, return_indices=True), 3, 1),
        lambda x: x * (F.max_unpool2d(*F.max_pool2d(x, 3, 1, return_indices=True), 3, 1) != 0),
        IMAGES,
    ),
    # written as statements
    "abs_": (statement(lambda h, b: h.abs_()), of_pair(lambda h, b: h * h.sign().detach()), ROWS),
    "absolute_": (statement(lambda h, b: h.absolute_()), of_pair(lambda h, b: h * h.sign().detach()), ROWS),
    "abs_ on a view": (
        statement(lambda h, b: h[:, :2].abs_()),
        of_pair(lambda h, b: torch.cat([h[:, :2] * h[:, :2].sign().detach(), h[:, 2:]], 1)),
        ROWS,
    ),
    "addcmul_": (
        statement(lambda h, b: h.addcmul_(b, b + 1, value=0.3)),
        of_pair(lambda h, b: h + 0.3 * each_way(b, b + 1)),
        ROWS,
    ),
    "addcdiv_": (
        statement(lambda h, b: h.addcdiv_(b, b.exp(), value=0.3)),
        of_pair(lambda h, b: h + 0.3 * b / b.exp().detach()),
        ROWS,
    ),
    "lerp_": (statement(lambda h, b: h.lerp_(b, b * 2)), of_pair(lambda h, b: lerped(h, b, b * 2)), ROWS),
    "mul_": (statement(lambda h, b: h.mul_(b)), of_pair(each_way), ROWS),
    "*=": (statement(lambda h, b: operator.imul(h, b)), of_pair(each_way), ROWS),
    "sigmoid_": (
        statement(lambda h, b: b.sigmoid_().add_(h) if False else h.add_(b.sigmoid_())),
        of_pair(lambda h, b: h + b.sigmoid().detach()),
        ROWS,
    ),
    "exp_": (statement(lambda h, b: h.add_(b.exp_())), of_pair(lambda h, b: h + b.exp().detach()), ROWS),
    "round_": (statement(lambda h, b: h.add_(b.round_())), of_pair(lambda h, b: h + b.round().detach()), ROWS),
    "relu_ on a chunk": (
        statement(lambda h, b: h.chunk(2, 1)[0].relu_()),
        of_pair(lambda h, b: torch.cat([h[:, :2] * (h[:, :2] > 0), h[:, 2:]], 1)),
        ROWS,
    ),
    "mul_ on an unbound row": (
        statement(lambda h, b: h.unbind(0)[1].mul_(b[0])),
        of_pair(lambda h, b: torch.cat([h[:1], each_way(h[1:2], b[:1]), h[2:]])),
        ROWS,
    ),
    "baddbmm_": (
        lambda x: (x @ x[:, :4].detach() * 0 + x[:, :, :4]).baddbmm_(x, x[:, :4], beta=0.5, alpha=2),
        lambda x: sum_and_products(x, x, x[:, :4], 0.5, 2),
        TOKENS,
    ),
    "addmm_": (
        lambda x: (x * 3).addmm_(x, x[:1].mT @ x[:1], beta=0.5, alpha=2),
        lambda x: sum_and_products(x * 3, x, (x[:1].mT @ x[:1].detach() + x[:1].mT.detach() @ x[:1]) / 2, 0.5, 2),
        ROWS,
    ),
}


def windows(x: Tensor) -> Tensor:
    """``[N, C, h, w, 4]``: the windows of 2 x 2."""
    return x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)


@pytest.mark.parametrize("name", OTHERS)
def test_other_operations(name):
    operation, reference, x = OTHERS[name]
    assert_agrees(operation, reference, x)


@pytest.mark.parametrize(
    ("name", "operation", "reference"),
    [
        ("cdist", lambda x: torch.cdist(x, V, p=3.0), lambda x: norm_flowing(x[:, None] - V, 3.0)),
        ("cdist of two", lambda x: torch.cdist(x, x @ W), lambda x: norm_flowing(x[:, None] - (x @ W)[None], 2.0)),
        ("norm", lambda x: x.norm(dim=1), lambda x: norm_flowing(x, 2.0)),
        ("vector_norm", lambda x: torch.linalg.vector_norm(x, 3, -1), lambda x: norm_flowing(x, 3.0)),
        ("pairwise_distance", lambda x: F.pairwise_distance(x, x @ W), lambda x: norm_flowing(x - x @ W + 1e-6, 2.0)),
        (
            "a number over x",
            lambda x: 2 / (x.abs() + 1),
            lambda x: (x * x.sign().detach() + 1) * (2 / (x.abs() + 1) ** 2).detach(),
        ),
        (
            "x ** -1",
            lambda x: (x.abs() + 1) ** -1.0,
            lambda x: (x * x.sign().detach() + 1) * ((x.abs() + 1) ** -2).detach(),
        ),
        (
            "var",
            lambda x: x.var(1),
            lambda x: ((x - x.mean(1, keepdim=True)) * (x - x.mean(1, keepdim=True)).detach()).sum(1) / 3,
        ),
        ("std", lambda x: x.std(1), lambda x: norm_flowing(x - x.mean(1, keepdim=True), 2.0) / 3**0.5),
    ],
)
def test_scales_that_flow(name, operation, reference):
    assert_agrees(operation, reference, ROWS, flowing=True)


# ---------------------------------------------------------------- recurrent networks and transformers


def tanh_held(x: Tensor) -> Tensor:
    return x * held(x.tanh(), x)


def cell_reference(kind: str, cell: Any, x: Tensor, h: Tensor, c: Tensor, suffix: str) -> tuple[Tensor, Tensor]:
    w, u, b, d = (getattr(cell, f"{name}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    left, right = x @ w.mT + b, h @ u.mT + d
    if kind == "rnn":
        return tanh_held(left + right), c
    if kind == "lstm":
        i, f, g, o = (left + right).chunk(4, -1)
        c = f.sigmoid().detach() * c + i.sigmoid().detach() * tanh_held(g)
        return o.sigmoid().detach() * tanh_held(c), c
    (rx, zx, nx), (rh, zh, nh) = left.chunk(3, -1), right.chunk(3, -1)
    r, z = (rx + rh).sigmoid().detach(), (zx + zh).sigmoid().detach()
    return (1 - z) * tanh_held(nx + r * nh) + z * h, c


RECURRENT = {"rnn": (nn.RNN, nn.RNNCell), "lstm": (nn.LSTM, nn.LSTMCell), "gru": (nn.GRU, nn.GRUCell)}


def frozen(module: nn.Module) -> nn.Module:
    return module.double().eval().requires_grad_(False)


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_layers(kind):
    torch.manual_seed(0)
    layer = frozen(RECURRENT[kind][0](4, 3, batch_first=True))

    def reference(x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), 3, dtype=x.dtype)
        steps = []
        for step in x.unbind(1):
            h, c = cell_reference(kind, layer, step, h, c, "_l0")
            steps.append(h)
        return torch.stack(steps, 1)

    assert_agrees(lambda x: layer(x)[0], reference, TOKENS)


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_cells(kind):
    torch.manual_seed(0)
    cell = frozen(RECURRENT[kind][1](4, 3))

    def operation(x: Tensor) -> Tensor:
        state = x[:, :3] * 0.5
        return cell(x, (state, state))[0] if kind == "lstm" else cell(x, state)

    def reference(x: Tensor) -> Tensor:
        return cell_reference(kind, cell, x, x[:, :3] * 0.5, x[:, :3] * 0.5, "")[0]

    assert_agrees(operation, reference, ROWS)


def test_a_padded_transformer_encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    encoder = frozen(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False))
    padded = torch.tensor([[False] * 5, [False, False, False, True, True]])
    one = encoder.layers[0]

    def reference(x: Tensor) -> Tensor:
        q, k, v = F.linear(x, one.self_attn.in_proj_weight, one.self_attn.in_proj_bias).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (2, 2)).transpose(1, 2) for part in (q, k, v))
        mixed = attended(q, k, v, 2**-0.5, ~padded[:, None, None]).transpose(1, 2).flatten(2)
        x = normed(x + one.self_attn.out_proj(mixed), (-1,)) * one.norm1.weight + one.norm1.bias
        hidden = one.linear1(x)
        return normed(x + one.linear2(hidden * (hidden > 0)), (-1,)) * one.norm2.weight + one.norm2.bias

    assert_agrees(lambda x: encoder(x, src_key_padding_mask=padded), reference, TOKENS)
