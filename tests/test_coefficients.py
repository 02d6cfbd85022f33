"""The coefficients of each rule are the derivative of the same function written by hand with ``.detach()``.

Value, coefficients and bias, in float64, out of place, in place, in place on a view, with ``out=``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.frozen_function import assert_decomposes, decompose, projected
from xai_align.pinet.gates.written_tensors import SharedViews


def number(seed: int, *shape: int) -> Tensor:
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x.view(-1)[:3] = torch.tensor([0.0, -0.0, 2.5])  # zeros of both signs
    return x


def activation(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``x * stop((f(x) - f(0)) / x) + f(0)``, the quotient 0 at 0."""

    def by_hand(x: Tensor) -> Tensor:
        at_zero = f(torch.zeros_like(x)).detach()
        quotient = torch.where(x == 0, 0, (f(x) - at_zero) / torch.where(x == 0, 1, x)).detach()
        return x * quotient + at_zero

    return by_hand


def half_each_way(a: Tensor, b: Tensor) -> Tensor:
    return (a * b.detach() + a.detach() * b) / 2


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).detach()


def centred(x: Tensor, dims: Any) -> Tensor:
    mean = x.mean(dims, keepdim=True)
    sigma = ((x - mean).square().mean(dims, keepdim=True) + 1e-5).sqrt()
    return (x - mean) / sigma.detach()


def attended(q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool) -> Tensor:
    scores = q @ k.transpose(-1, -2) * scale
    if causal:
        scores = scores.masked_fill(torch.ones(q.shape[-2], k.shape[-2]).triu(1).bool(), float("-inf"))
    return scores.softmax(-1).detach() @ v


def gru_cell(x: Tensor, h: Tensor) -> Tensor:
    w, u = number(20, 12, 4), number(21, 12, 4)
    (r, z, n), (r_, z_, n_) = (x @ w.T).chunk(3, -1), (h @ u.T).chunk(3, -1)
    r, z = torch.sigmoid(r + r_).detach(), torch.sigmoid(z + z_).detach()
    return (1 - z) * activation(torch.tanh)(n + r * n_) + z * h


W = number(30, 4, 4)
#: name: shapes of the inputs, the function, and the same by hand
RULES: dict[str, tuple[list[tuple[int, ...]], Callable[..., Any], Callable[..., Any]]] = {
    "relu": ([(3, 4)], torch.relu, lambda x: x * (x > 0)),
    "relu6": ([(3, 4)], lambda x: F.relu6(5 * x), lambda x: activation(F.relu6)(5 * x)),
    "hardtanh": ([(3, 4)], lambda x: F.hardtanh(x, 0.2, 0.9), activation(lambda x: F.hardtanh(x, 0.2, 0.9))),
    "silu": ([(3, 4)], F.silu, activation(F.silu)),
    "gelu": ([(3, 4)], F.gelu, activation(F.gelu)),
    "tanh": ([(3, 4)], torch.tanh, activation(torch.tanh)),
    "softplus": ([(3, 4)], F.softplus, activation(F.softplus)),
    "threshold": ([(3, 4)], lambda x: F.threshold(x, 0.1, 20.0), activation(lambda x: F.threshold(x, 0.1, 20.0))),
    "clamp": ([(3, 4)], lambda x: x.clamp(0.3, 1), activation(lambda x: x.clamp(0.3, 1))),
    "clamp between dependent bounds": (
        [(3, 4), (3, 4)],
        lambda x, low: x.clamp(min=low),
        lambda x, low: torch.where((x >= low).detach(), x, low),
    ),
    "sqrt": ([(3, 4)], lambda x: x.abs().sqrt(), lambda x: x * x.sign() * (x.abs() + (x == 0)).rsqrt().detach()),
    "pow 2.5": ([(3, 4)], lambda x: x.abs() ** 2.5, lambda x: x * x.sign() * (x.abs() ** 1.5).detach()),
    "pow of a tensor": ([(3, 4)], lambda x: x ** torch.tensor(2.0), lambda x: x * x.detach()),
    "prelu": ([(3, 4)], lambda x: F.prelu(x, W[0, :1]), activation(lambda x: torch.where(x > 0, x, W[0, 0] * x))),
    "abs": ([(3, 4)], torch.abs, lambda x: x * x.sign()),
    "complex abs": (
        [(3, 4), (3, 4)],
        lambda a, b: torch.complex(a, b).abs(),
        lambda a, b: (a * a.detach() + b * b.detach()) / torch.hypot(a, b).detach().clamp_min(1e-300),
    ),
    "glu": ([(3, 4)], F.glu, lambda x: x[:, :2] * torch.sigmoid(x[:, 2:]).detach()),
    "sigmoid as a gate": ([(3, 4)], lambda x: x * torch.sigmoid(x), lambda x: x * torch.sigmoid(x).detach()),
    "GELU by erf": (
        [(3, 4)],
        lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
        lambda x: x * torch.special.ndtr(x).detach(),
    ),
    "remainder": ([(3, 4)], lambda x: x % 0.7, lambda x: x - (0.7 * (x / 0.7).floor()).detach()),
    "product": ([(3, 4), (3, 4)], torch.mul, half_each_way),
    "matrix product": (
        [(3, 4), (4, 5)],
        torch.matmul,
        lambda a, b: (a @ b.detach() + a.detach() @ b) / 2,
    ),
    "quotient": ([(3, 4), (3, 4)], lambda a, b: a / (b.abs() + 1), lambda a, b: a / (b.abs() + 1).detach()),
    "einsum of three": (
        [(3, 4), (3, 4), (3, 4)],
        lambda a, b, c: torch.einsum("ij,ij,ij->ij", a, b, c),
        lambda a, b, c: (
            a * (b * c).detach() + b * (a * c).detach() + c * (a * b).detach()
        ) / 3,
    ),
    "baddbmm": (
        [(2, 3, 3), (2, 3, 4), (2, 4, 3)],
        lambda x, a, b: torch.baddbmm(x, a, b, beta=0.5, alpha=2),
        lambda x, a, b: 0.5 * x + a @ b.detach() + a.detach() @ b,
    ),
    "addcmul": (
        [(3, 4)] * 3,
        lambda x, a, b: torch.addcmul(x, a, b, value=3),
        lambda x, a, b: x + 3 * half_each_way(a, b),
    ),
    "lerp": ([(3, 4)] * 3, torch.lerp, lambda a, b, w: a + half_each_way(w, b) - half_each_way(w, a)),
    "prod": ([(3, 3)], lambda x: (x + 1).prod(1), lambda x: _prod(x + 1)),
    "cumprod": (
        [(2, 3)],
        lambda x: (x + 1).cumprod(1),
        lambda x: torch.stack([_prod((x + 1)[:, : k + 1]) for k in range(3)], 1),
    ),
    "logsumexp": ([(3, 4)], lambda x: x.logsumexp(1), lambda x: _logsumexp(x)),
    "log_softmax": ([(3, 4)], lambda x: x.log_softmax(1), lambda x: x - _logsumexp(x)[:, None]),
    "cosine similarity": (
        [(3, 4), (3, 4)],
        lambda a, b: F.cosine_similarity(a, b, dim=1),
        lambda a, b: half_each_way(unit(a), unit(b)).sum(1),
    ),
    "layer norm": ([(3, 4)], lambda x: F.layer_norm(x, (4,), W[0], W[1]), lambda x: centred(x, 1) * W[0] + W[1]),
    "batch norm": (
        [(3, 4)],
        lambda x: F.batch_norm(x, W[0], W[1].abs() + 1, W[2], W[3]),
        lambda x: (x - W[0]) / (W[1].abs() + 1 + 1e-5).sqrt() * W[2] + W[3],
    ),
    "group norm": (
        [(2, 4, 3)],
        lambda x: F.group_norm(x, 2),
        lambda x: centred(x.reshape(2, 2, 6), 2).reshape(2, 4, 3),
    ),
    "rms norm": (
        [(3, 4)],
        lambda x: F.rms_norm(x, (4,), W[0], 1e-5),
        lambda x: x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt().detach() * W[0],
    ),
    "max pool": (
        [(1, 2, 4, 4)],
        lambda x: F.max_pool2d(x, 2),
        lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).gather(
            4, x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).argmax(4, keepdim=True)
        )[..., 0],
    ),
    "lp pool": (
        [(1, 1, 4, 4)],
        lambda x: F.lp_pool2d(x.abs() + 1, 2, 2),
        lambda x: _lp_pool(x * x.sign() + 1),
    ),
    "maximum and its ties": (
        [(3, 4)],
        lambda x: torch.maximum(x, 2 * x),
        lambda x: torch.where((x >= 2 * x).detach(), x, 2 * x),
    ),
    "amax and its ties": (
        [(3, 4)],
        lambda x: torch.stack([x, x], 2).amax(2),
        lambda x: x,
    ),
    "median": ([(5, 3)], lambda x: x.median(0).values, lambda x: x.sort(0)[0][2]),
    "attention": (
        [(2, 3, 4)] * 3,
        F.scaled_dot_product_attention,
        lambda q, k, v: attended(q, k, v, scale=0.5, causal=False),
    ),
    "causal attention with a scale": (
        [(2, 3, 4)] * 3,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7),
        lambda q, k, v: attended(q, k, v, scale=0.7, causal=True),
    ),
    "gru cell": ([(3, 4), (3, 4)], lambda x, h: torch.gru_cell(x, h, number(20, 12, 4), number(21, 12, 4)), gru_cell),
    "rnn cell": (
        [(3, 4), (3, 4)],
        lambda x, h: torch.rnn_tanh_cell(x, h, W, 2 * W),
        lambda x, h: activation(torch.tanh)(x @ W.T + h @ (2 * W).T),
    ),
    "convolution with dependent weights": (
        [(1, 2, 5), (3, 2, 3)],
        F.conv1d,
        lambda x, w: (F.conv1d(x, w.detach()) + F.conv1d(x.detach(), w)) / 2,
    ),
}  # fmt: skip


def _prod(x: Tensor) -> Tensor:
    n = x.shape[1]
    others = [torch.cat([x[:, :i], x[:, i + 1 :]], 1).prod(1).detach() for i in range(n)]
    return sum(x[:, i] * others[i] for i in range(n)) / n


def _logsumexp(x: Tensor) -> Tensor:
    p = x.softmax(1).detach()
    return (p * x).sum(1) - (p * p.log()).sum(1)


def _lp_pool(x: Tensor) -> Tensor:
    windows = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    return (windows * (windows / windows.norm(dim=4, keepdim=True)).detach()).sum(4)


@pytest.mark.parametrize("name", RULES)
def test_coefficients_are_those_of_the_function_by_hand(name):
    shapes, function, by_hand = RULES[name]
    inputs = [number(seed, *shape) for seed, shape in enumerate(shapes)]
    assert_decomposes(decompose(function, inputs), inputs, by_hand)


def whole(write: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        h = 1.5 * x
        write(h)
        return h * W[0]

    return function


def pass_of(part: Callable[[Tensor], Tensor]) -> Callable[[Callable[[Tensor], Any]], Callable[[Tensor], Tensor]]:
    def spelled(write: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
        def function(x: Tensor) -> Tensor:
            h = 1.5 * x
            write(part(h))
            return h * W[0]

        return function

    return spelled


PARTS = {
    "a slice": lambda h: h[:, :2],
    "every second": lambda h: h[:, ::2],
    "transposed": lambda h: h.t(),
    "a part of chunk": lambda h: h.chunk(2, 1)[1],
    "a part of unbind": lambda h: h.unbind(1)[2],
}
#: how it is written, and what is written by hand
WRITES: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]] = {
    "abs_": (lambda h: h.abs_(), lambda h: h * h.sign()),
    "absolute_": (lambda h: h.absolute_(), lambda h: h * h.sign()),
    "relu_": (lambda h: torch.relu_(h), lambda h: h * (h > 0)),
    "F.relu(inplace=True)": (lambda h: F.relu(h, inplace=True), lambda h: h * (h > 0)),
    "F.silu(inplace=True)": (lambda h: F.silu(h, inplace=True), activation(F.silu)),
    "F.hardtanh(inplace=True)": (lambda h: F.hardtanh(h, 0.2, 0.9, True), activation(lambda h: h.clamp(0.2, 0.9))),
    "tanh_": (lambda h: h.tanh_(), activation(torch.tanh)),
    "clamp_": (lambda h: h.clamp_(-0.3, 0.2), activation(lambda h: h.clamp(-0.3, 0.2))),
    "pow_": (lambda h: h.pow_(2), lambda h: h * h.detach()),
    "mul_": (lambda h: h.mul_(h.sin() + 2), lambda h: half_each_way(h, activation(torch.sin)(h) + 2)),
    "*=": (lambda h: h.__imul__(h.sin() + 2), lambda h: half_each_way(h, activation(torch.sin)(h) + 2)),
    "div_": (lambda h: h.div_(h.abs() + 1), lambda h: h / (h.abs() + 1).detach()),
    "addcmul_": (lambda h: h.addcmul_(h, h + 1, value=2), lambda h: h + 2 * half_each_way(h, h + 1)),
    "addcdiv_": (lambda h: h.addcdiv_(h, h.abs() + 1), lambda h: h + h / (h.abs() + 1).detach()),
    "lerp_": (
        lambda h: h.lerp_(2 * h, h + 0.5),
        lambda h: h + half_each_way(h + 0.5, 2 * h) - half_each_way(h + 0.5, h),
    ),
    "sigmoid_ as a gate": (lambda h: h.mul_(h.clone().sigmoid_()), lambda h: h * torch.sigmoid(h).detach()),
    "round_": (lambda h: h.add_(h.clone().round_()), lambda h: h + h.round().detach()),
    "add_": (lambda h: h.add_(h.clone(), alpha=2), lambda h: 3 * h),
    "out=": (lambda h: torch.abs(h.clone(), out=h), lambda h: h * h.sign()),
    "copy_": (lambda h: h.copy_(h.clone().flip(0)), lambda h: h.flip(0)),
}  # fmt: skip


@pytest.mark.parametrize("part", ["the whole", *PARTS])
@pytest.mark.parametrize("name", WRITES)
def test_an_operation_in_place_is_the_same_operation(name, part):
    write, by_hand = WRITES[name]
    take = PARTS.get(part, lambda h: h[:])
    x = number(5, 4, 4)
    spelled = whole(write) if part == "the whole" else pass_of(take)(write)
    try:
        found = decompose(spelled, [x])
    except SharedViews:
        found = decompose(spelled, [x], separate_views=True)

    def expected(x: Tensor) -> Tensor:
        h = 1.5 * x
        places = take(torch.arange(16).view(4, 4))
        return h.flatten().scatter(0, places.flatten(), by_hand(take(h)).flatten()).view(4, 4) * W[0]

    assert_decomposes(found, [x], expected)
    with torch.no_grad():
        assert torch.allclose(found.value, projected(spelled(x.clone())), rtol=1e-12)
