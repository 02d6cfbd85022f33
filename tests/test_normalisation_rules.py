"""Norms in every spelling, with and without weights, against centring and scaling by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.frozen_function import assert_decomposes, assert_of_one_kind, decompose, number, one_by_one
from xai_align.pinet.gates.frozen_gates import FrozenGates

ROWS, PLANES, SERIES = number(1, 3, 4), number(2, 2, 4, 3, 2), number(3, 2, 4, 5)
W, V, MEAN, VARIANCE = number(4, 4) + 1, number(5, 4), number(6, 4), number(7, 4).abs() + 0.5
OWN = number(8, 4)

Case = tuple[list[Tensor], Callable[..., Any], Callable[..., Any]]


def normed(x: Tensor, dims: Any, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt().detach()


def grouped(x: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    return normed(x.reshape(len(x), groups, -1), 2, eps).view(x.shape)


def rooted(x: Tensor, dims: Any, eps: float) -> Tensor:
    return x / (x.square().mean(dims, keepdim=True) + eps).sqrt().detach()


def affine(x: Tensor, mean: Any, variance: Any, weight: Any = 1.0, bias: Any = 0.0, eps: float = 1e-5) -> Tensor:
    """The norm of each channel, by statistics that are given."""
    mean, variance, weight, bias = (
        one.view(1, 4, *[1] * (x.dim() - 2)) if isinstance(one, Tensor) else one
        for one in (mean, variance, weight, bias)
    )
    return (x - mean) / (variance + eps).sqrt() * weight + bias


aten = torch.ops.aten
CASES: dict[str, Case] = {
    "layer_norm": ([ROWS], lambda x: F.layer_norm(x, (4,)), lambda x: normed(x, 1)),
    "layer_norm with a weight": ([ROWS], lambda x: F.layer_norm(x, [4], W), lambda x: normed(x, 1) * W),
    "layer_norm with a bias": ([ROWS], lambda x: F.layer_norm(x, (4,), None, V), lambda x: normed(x, 1) + V),
    "layer_norm with both and a large eps": (
        [ROWS],
        lambda x: F.layer_norm(x, (4,), W, V, 0.5),
        lambda x: normed(x, 1, 0.5) * W + V,
    ),
    "layer_norm over two axes": (
        [PLANES],
        lambda x: F.layer_norm(x, (3, 2), number(9, 3, 2), number(10, 3, 2)),
        lambda x: normed(x, (2, 3)) * number(9, 3, 2) + number(10, 3, 2),
    ),
    "torch.layer_norm": (
        [ROWS],
        lambda x: torch.layer_norm(x, (4,), W, V, 0.5),
        lambda x: normed(x, 1, 0.5) * W + V,
    ),
    "torch.layer_norm by its defaults": ([ROWS], lambda x: torch.layer_norm(x, (4,)), lambda x: normed(x, 1)),
    "layer_norm with a weight of its own": (
        [ROWS, OWN],
        lambda x, w: F.layer_norm(x, (4,), w, V, 0.5),
        lambda x, w: one_by_one(torch.mul, normed(x, 1, 0.5), w) + V,
    ),
    "layer_norm with a bias of its own": (
        [PLANES, number(9, 3, 2)],
        lambda x, b: F.layer_norm(x, (3, 2), None, b),
        lambda x, b: normed(x, (2, 3)) + b,
    ),
    "rms_norm": (
        [ROWS],
        lambda x: F.rms_norm(x, (4,)),
        lambda x: rooted(x, 1, torch.finfo(torch.float64).eps),
    ),
    "rms_norm over two axes": (
        [PLANES],
        lambda x: F.rms_norm(x, (3, 2), number(9, 3, 2), 0.5),
        lambda x: rooted(x, (2, 3), 0.5) * number(9, 3, 2),
    ),
    "group_norm": ([PLANES], lambda x: F.group_norm(x, 2), lambda x: grouped(x, 2)),
    "group_norm with both and a large eps": (
        [SERIES],
        lambda x: F.group_norm(x, 2, W, V, 0.5),
        lambda x: grouped(x, 2, 0.5) * W[:, None] + V[:, None],
    ),
    "torch.group_norm": (
        [PLANES],
        lambda x: torch.group_norm(x, 4, W, V, 0.5),
        lambda x: grouped(x, 4, 0.5) * W[:, None, None] + V[:, None, None],
    ),
    "torch.group_norm by its defaults": ([PLANES], lambda x: torch.group_norm(x, 1), lambda x: grouped(x, 1)),
    "group_norm with a bias of its own": (
        [SERIES, OWN],
        lambda x, b: F.group_norm(x, 2, None, b),
        lambda x, b: grouped(x, 2) + b[:, None],
    ),
    "batch_norm": (
        [PLANES],
        lambda x: F.batch_norm(x, MEAN, VARIANCE),
        lambda x: affine(x, MEAN, VARIANCE),
    ),
    "batch_norm with both and a large eps": (
        [SERIES],
        lambda x: F.batch_norm(x, MEAN, VARIANCE, W, V, eps=0.5),
        lambda x: affine(x, MEAN, VARIANCE, W, V, 0.5),
    ),
    "batch_norm of rows with a bias": (
        [ROWS],
        lambda x: F.batch_norm(x, MEAN, VARIANCE, None, V),
        lambda x: affine(x, MEAN, VARIANCE, 1.0, V),
    ),
    "torch.batch_norm": (
        [PLANES],
        lambda x: torch.batch_norm(x, W, V, MEAN, VARIANCE, False, 0.1, 0.5, False),
        lambda x: affine(x, MEAN, VARIANCE, W, V, 0.5),
    ),
    "batch_norm with weights of its own": (
        [PLANES, OWN, number(9, 4)],
        lambda x, w, b: F.batch_norm(x, MEAN, VARIANCE, w, b, eps=0.5),
        lambda x, w, b: one_by_one(torch.mul, affine(x, MEAN, VARIANCE, eps=0.5), w.view(4, 1, 1)) + b.view(4, 1, 1),
    ),
    "batch_norm of statistics of its own": (
        [ROWS, OWN],
        lambda x, m: F.batch_norm(x, m, m * m + 1),
        lambda x, m: (x - m) / (m * m + 1 + 1e-5).sqrt().detach(),
    ),
    "batch_norm with a weight of its own": (
        [ROWS, OWN],
        lambda x, w: F.batch_norm(x, MEAN, VARIANCE, w),
        lambda x, w: one_by_one(torch.mul, affine(x, MEAN, VARIANCE), w),
    ),
    "batch_norm with a bias of its own": (
        [ROWS, OWN],
        lambda x, b: F.batch_norm(x, MEAN, VARIANCE, W, b),
        lambda x, b: affine(x, MEAN, VARIANCE, W) + b,
    ),
    "batch_norm with a mean of its own": (
        [ROWS, OWN],
        lambda x, m: F.batch_norm(x, m, VARIANCE, W, V),
        lambda x, m: affine(x, m, VARIANCE, W, V),
    ),
    "batch_norm with a variance of its own": (
        [ROWS, OWN],
        lambda x, v: F.batch_norm(x, MEAN, v * v + 1),
        lambda x, v: (x - MEAN) / (v * v + 1 + 1e-5).sqrt().detach(),
    ),
    "instance_norm": ([PLANES], F.instance_norm, lambda x: grouped(x, 4)),
    "instance_norm with both and a large eps": (
        [SERIES],
        lambda x: F.instance_norm(x, None, None, W, V, eps=0.5),
        lambda x: grouped(x, 4, 0.5) * W[:, None] + V[:, None],
    ),
    "instance_norm by statistics that are kept": (
        [PLANES],
        lambda x: F.instance_norm(x, MEAN, VARIANCE, W, V, use_input_stats=False, eps=0.5),
        lambda x: affine(x, MEAN, VARIANCE, W, V, 0.5),
    ),
    "torch.instance_norm": (
        [PLANES],
        lambda x: torch.instance_norm(x, W, V, None, None, True, 0.1, 0.5, False),
        lambda x: grouped(x, 4, 0.5) * W[:, None, None] + V[:, None, None],
    ),
    "torch.instance_norm by statistics that are kept": (
        [PLANES],
        lambda x: torch.instance_norm(x, W, V, MEAN, VARIANCE, False, 0.1, 0.5, False),
        lambda x: affine(x, MEAN, VARIANCE, W, V, 0.5),
    ),
    "native_layer_norm": (
        [ROWS],
        lambda x: aten.native_layer_norm.default(x, [4], W, V, 0.5)[0],
        lambda x: normed(x, 1, 0.5) * W + V,
    ),
    "native_layer_norm and its statistics": (
        [ROWS],
        lambda x: (lambda y, mean, scale: y + mean * scale)(*aten.native_layer_norm.default(x, [4], None, None, 0.5)),
        lambda x: normed(x, 1, 0.5)
        + (x.mean(1, keepdim=True) / (x.var(1, correction=0, keepdim=True) + 0.5).sqrt()).detach(),
    ),
    "native_group_norm": (
        [SERIES],
        lambda x: aten.native_group_norm.default(x, W, V, 2, 4, 5, 2, 0.5)[0],
        lambda x: grouped(x, 2, 0.5) * W[:, None] + V[:, None],
    ),
    "native batch norm": (
        [SERIES],
        lambda x: aten._native_batch_norm_legit_no_training.default(x, W, V, MEAN, VARIANCE, 0.1, 0.5)[0],
        lambda x: affine(x, MEAN, VARIANCE, W, V, 0.5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_a_rule_hands_on(name):
    inputs, operation, by_hand = CASES[name]
    found = decompose(operation, inputs)
    assert_of_one_kind(found, operation(*inputs))
    assert_decomposes(found, inputs, by_hand)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: F.batch_norm(x, MEAN.clone(), VARIANCE.clone(), training=True),
        lambda x: torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False),
    ],
)
def test_a_batchs_own_statistics_are_refused(operation):
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        decompose(operation, [ROWS])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "operation",
    [
        lambda x: F.layer_norm(x, (4,), W.to(x.dtype), V.to(x.dtype)),
        lambda x: F.batch_norm(x, MEAN.to(x.dtype), VARIANCE.to(x.dtype), W.to(x.dtype)),
        lambda x: F.batch_norm(x, MEAN.float(), VARIANCE.float(), W.float(), V.float()),
    ],
)
def test_norms_keep_the_networks_precision(operation, dtype):
    x = ROWS.to(dtype)
    gates, z = FrozenGates(), x.clone().requires_grad_().clone()
    with gates:
        value = operation(z)
    with gates.replay():
        again = operation(x)
    plain = operation(x)
    assert value.dtype == again.dtype == plain.dtype
    assert torch.autograd.grad(value.float().sum(), z)[0].dtype == dtype
    for one in (value, again):
        assert torch.allclose(one, plain, rtol=10 * torch.finfo(dtype).eps, atol=10 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda x: F.layer_norm(x, (4,), W, V), "FrozenNormBackward"),
        (lambda x: F.batch_norm(x, MEAN, VARIANCE, W, V), "GatedBackward"),
    ],
)
def test_the_way_back_is_written_down(operation, name):
    z = ROWS.clone().requires_grad_().clone()
    with FrozenGates():
        value = operation(z)
    assert type(value.grad_fn).__name__ == name
    assert all(saved is None or saved.shape != ROWS.shape for saved in value.grad_fn.saved_tensors)
