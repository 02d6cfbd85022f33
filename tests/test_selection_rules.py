"""Selections in every form of their arguments: the winner flows, its place is held, the first of equal ones wins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.frozen_function import assert_decomposes, assert_of_one_kind, decompose, number, one_by_one

A, B = number(1, 3, 4), number(2, 3, 4)
#: No two entries of both are equal.
C, D = A + torch.arange(12).view(3, 4) / 7, B - torch.arange(12).view(3, 4) / 9 - 0.3
CUBE = number(3, 2, 3, 4)
STEPS = CUBE + torch.arange(24).view(2, 3, 4) / 7
TIES = torch.tensor([[1.0, 3.0, 3.0, -2.0], [2.0, 2.0, -2.0, -2.0], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
OTHER = torch.tensor([[1.0, 2.0, 4.0, -2.0], [2.0, 3.0, -3.0, -2.0], [0.5, 0.0, 1.0, 0.5]], dtype=torch.float64)
WITH_NAN = A.masked_fill(torch.eye(3, 4, dtype=torch.bool), float("nan"))
#: Places in rows of four, some taken twice, one never.
PLACES = torch.tensor([[0, 1, 1, 3], [3, 3, 3, 0], [1, 0, 3, 1]])
ROWS = torch.tensor([2, 0, 2])

Case = tuple[list[Tensor], Callable[..., Any], Callable[..., Any]]


def taken(find: Callable[[list[float]], int], dim: int, *, keepdim: bool = False) -> Callable[[Tensor], Tensor]:
    """The entry along an axis that ``find`` chooses from a list of numbers."""

    def by_hand(x: Tensor) -> Tensor:
        moved = x.movedim(dim, -1)
        flat = moved.reshape(-1, moved.shape[-1])
        found = torch.stack([row[find(row.tolist())] for row in flat]).view(moved.shape[:-1])
        return found.unsqueeze(dim) if keepdim else found

    return by_hand


def first_largest(row: list[float]) -> int:
    return row.index(max(row))


def first_smallest(row: list[float]) -> int:
    return row.index(min(row))


def nth(n: int) -> Callable[[list[float]], int]:
    return lambda row: sorted(range(len(row)), key=row.__getitem__)[n]


def running(find: Callable[[list[float]], int], x: Tensor) -> Tensor:
    """Each of the first entries of the rows that ``find`` chooses."""
    return torch.stack([torch.stack([row[find(row[: k + 1].tolist())] for k in range(len(row))]) for row in x])


def last_largest(row: list[float]) -> int:
    return len(row) - 1 - row[::-1].index(max(row))


def last_smallest(row: list[float]) -> int:
    return len(row) - 1 - row[::-1].index(min(row))


CASES: dict[str, Case] = {
    "maximum": ([TIES, OTHER], torch.maximum, lambda a, b: torch.where(a >= b, a, b)),
    "minimum": ([TIES, OTHER], torch.minimum, lambda a, b: torch.where(a <= b, a, b)),
    "max of two": ([TIES, OTHER], torch.max, lambda a, b: torch.where(a >= b, a, b)),
    "min of two": ([TIES, OTHER], lambda a, b: a.min(other=b), lambda a, b: torch.where(a <= b, a, b)),
    "max of all": ([TIES], torch.max, lambda x: x[0, 1]),
    "min of all": ([TIES], torch.min, lambda x: x[0, 3]),
    "max over rows": ([TIES], lambda x: x.max(0), taken(first_largest, 0)),
    "max, kept": ([A], lambda x: x.max(-1, True).values, taken(first_largest, 1, keepdim=True)),
    "max, kept by name": ([A], lambda x: x.max(dim=0, keepdim=True).values, taken(first_largest, 0, keepdim=True)),
    "min over rows": ([A], lambda x: torch.min(x, 0).values, taken(first_smallest, 0)),
    "min, kept by name": ([A], lambda x: x.min(1, keepdim=True).values, taken(first_smallest, 1, keepdim=True)),
    "amax": ([TIES], lambda x: x.amax(1), taken(first_largest, 1)),
    "amax over the last but one": ([CUBE], lambda x: x.amax(-2), taken(first_largest, 1)),
    "amax over two axes": (
        [CUBE],
        lambda x: x.amax((2, 0)),
        lambda x: taken(first_largest, 1)(x.movedim(0, 1).flatten(1)),
    ),
    "amax over two axes, kept": (
        [CUBE],
        lambda x: torch.amax(x, dim=(0, -1), keepdim=True),
        lambda x: taken(first_largest, 1)(x.movedim(0, 1).flatten(1))[None, :, None],
    ),
    "amax over the first axis": ([CUBE], lambda x: x.amax(0), taken(first_largest, 0)),
    "amin of all": ([TIES], torch.amin, lambda x: x[0, 3]),
    "amin of all, kept": ([CUBE], lambda x: x.amin(keepdim=True), lambda x: x.flatten()[x.argmin()].view(1, 1, 1)),
    "amin of one number": ([A], lambda x: x[1, 1].amin(), lambda x: x[1, 1]),
    "amax of one number": ([A], lambda x: x[1, 1].amax(-1, True), lambda x: x[1, 1]),
    "aminmax": ([TIES], lambda x: torch.stack(x.aminmax()), lambda x: torch.stack([x[0, 3], x[0, 1]])),
    "aminmax, kept": (
        [A],
        lambda x: torch.cat(torch.aminmax(x, dim=1, keepdim=True)),
        lambda x: torch.cat([taken(f, 1, keepdim=True)(x) for f in (first_smallest, first_largest)]),
    ),
    "aminmax over rows": (
        [A],
        lambda x: x.aminmax(dim=0).max,
        taken(first_largest, 0),
    ),
    "where": (
        [A, B],
        lambda a, b: torch.where(PLACES > 1, a, b),
        lambda a, b: torch.where(PLACES > 1, a, b),
    ),
    "where to": ([A], lambda a: torch.stack(torch.where(a > 0.5)).sum() + a, lambda a: (a > 0.5).nonzero().sum() + a),
    "topk": ([A], lambda x: x.topk(2).values, lambda x: x.sort(1, descending=True).values[:, :2]),
    "topk of a cube": ([STEPS], lambda x: x.topk(2).values, lambda x: x.sort(2, descending=True).values[..., :2]),
    "sort of the last axis": ([CUBE], lambda x: torch.sort(x).values, lambda x: x.gather(2, x.argsort(2))),
    "places that are not 0": (
        [A],
        lambda a: torch.stack(torch.where(a)).sum() + a,
        lambda a: (a != 0).nonzero().sum() + a,
    ),
    "topk over rows": ([A], lambda x: x.topk(2, 0, False).values, lambda x: x.sort(0).values[:2]),
    "topk by names": (
        [A],
        lambda x: torch.topk(x, k=1, dim=0, largest=False).values,
        lambda x: x.sort(0).values[:1],
    ),
    "sort": ([A], lambda x: x.sort().values, lambda x: torch.stack([row[row.argsort()] for row in x])),
    "sort over rows": ([A], lambda x: x.sort(0, True).values, lambda x: x.gather(0, (-x).argsort(0))),
    "a stable sort": (
        [TIES],
        lambda x: torch.sort(x, stable=True, dim=0).values,
        lambda x: torch.stack([x[:, i][sorted(range(3), key=x[:, i].tolist().__getitem__)] for i in range(4)], 1),
    ),
    "msort": ([A], torch.msort, lambda x: x.gather(0, x.argsort(0))),
    "kthvalue": ([C], lambda x: x.kthvalue(2).values, taken(nth(1), 1)),
    "kthvalue over rows": ([C], lambda x: x.kthvalue(3, 0).values, taken(nth(2), 0)),
    "kthvalue, kept": ([C], lambda x: x.kthvalue(1, 0, True).values, taken(nth(0), 0, keepdim=True)),
    "median of all": ([A], torch.median, lambda x: taken(nth(5), 0)(x.flatten())),
    "median over rows": ([A], lambda x: x.median(0), taken(nth(1), 0)),
    "median, kept": ([A], lambda x: x.median(dim=1, keepdim=True).values, taken(nth(1), 1, keepdim=True)),
    "nanmedian of all": (
        [A],
        lambda x: (x + 0 * WITH_NAN).nanmedian(),
        lambda x: taken(nth(4), 0)(x[~WITH_NAN.isnan()]),
    ),
    "nanmedian over the last axis": (
        [A],
        lambda x: (x + 0 * WITH_NAN).nanmedian(1).values,
        lambda x: torch.stack([taken(nth(1), 0)(row[~nan]) for row, nan in zip(x, WITH_NAN.isnan(), strict=True)]),
    ),
    "mode": ([OTHER], lambda x: x.mode(1).values, lambda x: torch.stack([x[0, 3], x[1, 2], x[2, 3]])),
    "cummax": ([TIES], lambda x: x.cummax(1).values, lambda x: running(last_largest, x)),
    "cummin over rows": ([A], lambda x: torch.cummin(x, dim=0).values, lambda x: running(last_smallest, x.T).T),
    "scatter_reduce to sums": (
        [A, B],
        lambda a, b: a.scatter_reduce(1, PLACES, b, "sum", include_self=False),
        lambda a, b: a.scatter(1, PLACES, 0.0).scatter_add(1, PLACES, b),
    ),
    "scatter_reduce to means": (
        [A, B],
        lambda a, b: a.scatter_reduce(1, PLACES, b, reduce="mean"),
        lambda a, b: a.scatter_add(1, PLACES, b) / torch.ones_like(a).scatter_add(1, PLACES, torch.ones_like(b)),
    ),
    "scatter_reduce to extremes": (
        [C, D],
        lambda a, b: a.scatter_reduce(1, PLACES, b, "amax"),
        lambda a, b: torch.stack(
            [
                taken(first_largest, 0)(torch.cat([a[i, k : k + 1], b[i][PLACES[i] == k]]))
                for i in range(3)
                for k in range(4)
            ]
        ).view(3, 4),
    ),
    "scatter_reduce to extremes of what is new": (
        [C, D],
        lambda a, b: a.scatter_reduce(1, PLACES, b, "amin", include_self=False),
        lambda a, b: torch.stack(
            [
                taken(first_smallest, 0)(b[i][PLACES[i] == k]) if (PLACES[i] == k).any() else a[i, k]
                for i in range(3)
                for k in range(4)
            ]
        ).view(3, 4),
    ),
    **{
        f"scatter_reduce to products, {'with' if whole else 'without'} what was there": (
            [A + 1, B + 1],
            lambda a, b, whole=whole: a.scatter_reduce(1, PLACES, b, "prod", include_self=whole),
            lambda a, b, whole=whole: torch.stack(
                [product([a[i, k]], list(b[i][PLACES[i] == k]), whole=whole) for i in range(3) for k in range(4)]
            ).view(3, 4),
        )
        for whole in (True, False)
    },
    "index_reduce to products": (
        [A + 1, B + 1],
        lambda a, b: a.index_reduce(0, ROWS, b, "prod"),
        lambda a, b: torch.stack([one_by_one(torch.mul, a[0], b[1]), a[1], one_by_one(three, a[2], b[0], b[2])]),
    ),
    "index_reduce over the last axis": (
        [A + 1, B[:, :3] + 1],
        lambda a, b: a.index_reduce(-1, ROWS, b, "prod", include_self=False),
        lambda a, b: torch.stack([b[:, 1], a[:, 1], one_by_one(torch.mul, b[:, 0], b[:, 2]), a[:, 3]], 1),
    ),
    "index_reduce to means": (
        [A, B],
        lambda a, b: a.index_reduce(0, ROWS, b, "mean"),
        lambda a, b: torch.stack([(a[0] + b[1]) / 2, a[1], (a[2] + b[0] + b[2]) / 3]),
    ),
    "scatter": (
        [A, B[:1]],
        lambda a, b: a.scatter(0, PLACES[:1] % 3, b),
        lambda a, b: torch.stack([a[i].where(PLACES[0] % 3 != i, b[0]) for i in range(3)]),
    ),
    "scatter a number": (
        [A],
        lambda a: a.scatter(1, PLACES, value=2.5),
        lambda a: torch.stack([torch.stack([a[i, k] if k not in PLACES[i] else a[i, k] * 0 + 2.5 for k in range(4)])
                               for i in range(3)]),
    ),
    "scatter sums": (
        [A, B],
        lambda a, b: torch.scatter(a, 1, PLACES, b, reduce="add"),
        lambda a, b: torch.stack(
            [torch.stack([a[i, k] + b[i][PLACES[i] == k].sum() for k in range(4)]) for i in range(3)]
        ),
    ),
    "scatter sums of a number": (
        [A],
        lambda a: a.scatter(1, PLACES, 2.5, reduce="add"),
        lambda a: a + 2.5 * torch.stack([(k == PLACES).sum(1) for k in range(4)], 1),
    ),
}  # fmt: skip


def three(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return a * b * c


def product(there: list[Tensor], new: list[Tensor], *, whole: bool) -> Tensor:
    """Each factor its share; what was there counts if nothing comes or ``whole``."""
    factors = there + new if whole or not new else new
    return one_by_one(lambda *f: torch.stack(f).prod(), *factors)


@pytest.mark.parametrize("name", CASES)
def test_what_a_rule_hands_on(name):
    inputs, operation, by_hand = CASES[name]
    found = decompose(operation, inputs)
    assert_of_one_kind(found, operation(*inputs))
    assert_decomposes(found, inputs, by_hand)


@pytest.mark.parametrize("find", [torch.max, torch.min, torch.median, torch.cummax, torch.mode, torch.sort])
def test_places_come_with_values(find):
    plain = find(TIES, dim=1)
    kept: list[Any] = []
    decompose(lambda x: kept.append(find(x, dim=1)) or kept[-1].values, [TIES])
    for found in kept:
        assert type(found) is type(plain)
        assert torch.equal(found.indices, plain.indices)
    assert torch.equal(kept[0].values, plain.values)


@pytest.mark.parametrize("keepdim", [True, False])
def test_places_come_in_the_values_shape(keepdim):
    kept: list[Any] = []
    decompose(lambda x: kept.append(x.min(1, keepdim)) or kept[-1].values, [A])
    assert torch.equal(kept[0].indices, A.argmin(1, keepdim=keepdim))


def test_products_of_places_are_refused():
    with pytest.raises(NotImplementedError, match="multiply"):
        decompose(lambda a: a.scatter(1, PLACES, a, reduce="multiply"), [A])
