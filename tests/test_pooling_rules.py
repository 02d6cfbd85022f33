"""Max pooling, power pooling and unpooling in every dimension and spelling, against windows taken by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.frozen_function import assert_decomposes, assert_of_one_kind, decompose, held, number

LINE, PLANE, CUBE = number(1, 2, 3, 6), number(2, 2, 2, 4, 6), number(3, 1, 2, 4, 4, 4)
#: With it, every window of two has a positive sum of cubes, and some have entries of either sign.
POSITIVE = torch.tensor([[[0.5, 6.0, 0.5, 6.0, 0.5, 6.0]]], dtype=torch.float64)
#: Many equal entries.
TIES = PLANE.round()

Case = tuple[list[Tensor], Callable[..., Any], Callable[..., Any]]


def windows(x: Tensor, size: tuple[int, ...], step: tuple[int, ...]) -> Tensor:
    """``[N, C, ..., window]``, without padding."""
    for axis, (width, stride) in enumerate(zip(size, step, strict=True)):
        x = x.unfold(2 + axis, width, stride)
    return x.flatten(-len(size))


def largest(x: Tensor, size: tuple[int, ...], step: tuple[int, ...] | None = None) -> Tensor:
    """The first of the largest entries of each window."""
    seen = windows(x, size, step or size)
    first = (seen == seen.max(-1, keepdim=True).values).int().argmax(-1, keepdim=True)
    return seen.gather(-1, first)[..., 0]


def norm(x: Tensor, p: float, size: tuple[int, ...], step: tuple[int, ...]) -> Tensor:
    """``sum_i x_i stop(dn/dx_i)`` of each window's p-norm ``n``."""
    seen = windows(x, size, step)
    powers = (seen.abs() ** p * seen.sign() ** p).sum(-1, keepdim=True)
    value = powers.clamp(min=0) ** (1 / p)
    return (seen * held(seen.abs() ** (p - 1) * seen.sign() ** (p - 1), value ** (p - 1))).sum(-1)


def scattered(values: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Each value at its place of zeros, the last of several at one place."""
    spatial = len(shape) - 2
    rows = []
    for row, at in zip(values.flatten(-spatial).flatten(0, 1), places.flatten(-spatial).flatten(0, 1), strict=True):
        line = dict(zip(at.tolist(), row, strict=True))
        size = torch.Size(shape[2:]).numel()
        rows.append(torch.stack([line.get(place, row[0] * 0) for place in range(size)]))
    return torch.stack(rows).view(shape)


CASES: dict[str, Case] = {
    **{
        f"F._{pool} past its choice": (
            [x],
            lambda x, pool=pool: getattr(F, f"_{pool}")(x, 2),
            lambda x, size=size: largest(x, size),
        )
        for pool, x, size in (
            ("max_pool1d", LINE, (2,)),
            ("max_pool2d", PLANE, (2, 2)),
            ("max_pool3d", CUBE, (2, 2, 2)),
            ("adaptive_max_pool1d", LINE, (3,)),
            ("adaptive_max_pool2d", PLANE, (2, 3)),
            ("adaptive_max_pool3d", CUBE, (2, 2, 2)),
        )
    },
    "max_pool1d": ([LINE], lambda x: F.max_pool1d(x, 2), lambda x: largest(x, (2,))),
    "max_pool1d with a step": ([LINE], lambda x: F.max_pool1d(x, 3, stride=1), lambda x: largest(x, (3,), (1,))),
    "max_pool2d of ties": ([TIES], lambda x: F.max_pool2d(x, (2, 3)), lambda x: largest(x, (2, 3))),
    "max_pool2d with padding": (
        [PLANE],
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: largest(F.pad(x, (1, 1, 1, 1), value=-1e9), (3, 3), (2, 2)),
    ),
    "max_pool2d without a batch": ([PLANE], lambda x: F.max_pool2d(x[0], 2), lambda x: largest(x[:1], (2, 2))[0]),
    "max_pool3d": ([CUBE], lambda x: F.max_pool3d(x, 2), lambda x: largest(x, (2, 2, 2))),
    "max_pool2d with its places": (
        [PLANE],
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: largest(x, (2, 2)),
    ),
    "max_pool2d with places that are not wanted": (
        [PLANE],
        lambda x: F.max_pool2d(x, 2, return_indices=False),
        lambda x: largest(x, (2, 2)),
    ),
    "aten.max_pool2d_with_indices": (
        [PLANE],
        lambda x: torch.ops.aten.max_pool2d_with_indices.default(x, [2, 2])[0],
        lambda x: largest(x, (2, 2)),
    ),
    "torch.max_pool2d": ([PLANE], lambda x: torch.max_pool2d(x, (2, 2), (1, 1)), lambda x: largest(x, (2, 2), (1, 1))),
    "adaptive_max_pool1d": ([LINE], lambda x: F.adaptive_max_pool1d(x, 3), lambda x: largest(x, (2,))),
    "adaptive_max_pool2d": ([PLANE], lambda x: F.adaptive_max_pool2d(x, (2, 3)), lambda x: largest(x, (2, 2))),
    "adaptive_max_pool3d": (
        [CUBE],
        lambda x: F.adaptive_max_pool3d(x, 2, return_indices=True)[0],
        lambda x: largest(x, (2, 2, 2)),
    ),
    "lp_pool1d": ([LINE], lambda x: F.lp_pool1d(x.abs(), 3, 2), lambda x: norm(x * x.sign(), 3, (2,), (2,))),
    "lp_pool1d that sums": ([LINE - 0.25], lambda x: F.lp_pool1d(x, 1, 2), lambda x: windows(x, (2,), (2,)).sum(-1)),
    "lp_pool1d of odd powers": (
        [LINE],
        lambda x: F.lp_pool1d(x + POSITIVE, 3.0, 2),
        lambda x: norm(x + POSITIVE, 3, (2,), (2,)),
    ),
    "lp_pool2d of either sign": (
        [PLANE],
        lambda x: F.lp_pool2d(x, 2.0, (2, 3), 1),
        lambda x: norm(x, 2, (2, 3), (1, 1)),
    ),
    "lp_pool2d of nothing": (
        [PLANE],
        lambda x: F.lp_pool2d(x * 0, 2.0, 2),
        lambda x: 0 * windows(x, (2, 2), (2, 2)).sum(-1),
    ),
    "lp_pool3d": ([CUBE], lambda x: F.lp_pool3d(x, 2.0, 2), lambda x: norm(x, 2, (2, 2, 2), (2, 2, 2))),
    "max_unpool1d": (
        [LINE],
        lambda x: F.max_unpool1d(x[..., :3], torch.tensor([[[1, 2, 5]] * 3] * 2), 2),
        lambda x: scattered(x[..., :3], torch.tensor([[[1, 2, 5]] * 3] * 2), (2, 3, 6)),
    ),
    "max_unpool2d": (
        [PLANE],
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        lambda x: scattered(largest(x, (2, 2)), F.max_pool2d(x, 2, return_indices=True)[1], (2, 2, 4, 6)),
    ),
    "max_unpool2d into a larger plane": (
        [PLANE],
        lambda x: F.max_unpool2d(x, torch.arange(24).view(1, 1, 4, 6).expand(2, 2, 4, 6) * 2, 2, output_size=(9, 12)),
        lambda x: scattered(x, torch.arange(24).view(1, 1, 4, 6).expand(2, 2, 4, 6) * 2, (2, 2, 9, 12)),
    ),
    "max_unpool3d": (
        [CUBE],
        lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2),
        lambda x: scattered(largest(x, (2, 2, 2)), F.max_pool3d(x, 2, return_indices=True)[1], (1, 2, 4, 4, 4)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_a_rule_hands_on(name):
    inputs, operation, by_hand = CASES[name]
    found = decompose(operation, inputs)
    assert_of_one_kind(found, operation(*inputs))
    assert_decomposes(found, inputs, by_hand)


@pytest.mark.parametrize("taken", [lambda found: found[0], lambda found: found[1].double() / 10 + found[0]])
def test_places_are_those_of_the_function(taken):
    plain = F.max_pool2d(TIES, 2, return_indices=True)
    found = decompose(lambda x: taken(F.max_pool2d(x, 2, return_indices=True)), [TIES])
    assert torch.equal(found.outputs[0], taken(plain))


def test_of_values_at_one_place_the_functions_own_is_taken():
    # 0 and 1 are sent to place 3: the plain function takes one of them
    places = torch.tensor([[[[3, 3], [0, 1]]]])
    x = torch.tensor([[[[5.0, 7.0], [2.0, 4.0]]]], dtype=torch.float64)
    plain = F.max_unpool2d(x, places, 1)
    found = decompose(lambda x: F.max_unpool2d(x, places, 1), [x])
    assert torch.equal(found.outputs[0], plain)
    weights = torch.linspace(-1, 2, 4, dtype=torch.float64)
    winner = [5.0, 7.0].index(plain[0, 0, 1, 1])
    by_hand = [weights[3] if winner == 0 else 0.0, weights[3] if winner == 1 else 0.0, weights[0], weights[1]]
    assert found.betas[0].flatten().tolist() == pytest.approx([float(one) for one in by_hand])
