"""Operations whose arguments are given by name, by PyTorch's or by NumPy's, are the same operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.frozen_function import assert_decomposes, decompose, held, number, one_by_one
from xai_align.pinet.gates.named_arguments import by_position

A, B, W = number(1, 3, 4), number(2, 3, 4), number(3, 4, 4)
INDEX = torch.tensor([[0, 1, 1, 0]] * 3)


def scattered(a: Tensor, b: Tensor) -> Tensor:
    """Each row of ``b`` summed into two places of ``a``."""
    return torch.stack([a[:, 0] + b[:, 0] + b[:, 3], a[:, 1] + b[:, 1] + b[:, 2], a[:, 2], a[:, 3]], 1)


#: inputs, the operation, the same by hand
CASES: dict[str, tuple[list[Tensor], Callable[..., Any], Callable[..., Any]]] = {
    "relu": ([A], lambda a: torch.relu(input=a), lambda a: a * (a > 0)),
    "relu_": ([A], lambda a: torch.relu_(input=a * 2), lambda a: 2 * a * (a > 0)),
    "gelu": ([A], lambda a: F.gelu(input=a), lambda a: a * held(F.gelu(a), a)),
    "aten.gelu": ([A], lambda a: torch.ops.aten.gelu.default(self=a), lambda a: a * held(F.gelu(a), a)),
    "mul": ([A, B], lambda a, b: torch.mul(other=b, input=a), lambda a, b: one_by_one(torch.mul, a, b)),
    "mul with out": (
        [A, B],
        lambda a, b: torch.mul(input=a, other=b, out=torch.empty(0, dtype=a.dtype)),
        lambda a, b: one_by_one(torch.mul, a, b),
    ),
    "mv": ([W, A], lambda w, a: torch.mv(w, vec=a[1]), lambda w, a: one_by_one(torch.mv, w, a[1])),
    "vecdot": (
        [A, B],
        lambda a, b: torch.linalg.vecdot(x=a, y=b),
        lambda a, b: one_by_one(torch.mul, a, b).sum(1),
    ),
    "multi_dot": (
        [A, W],
        lambda a, w: torch.linalg.multi_dot(tensors=[a, w]),
        lambda a, w: one_by_one(torch.matmul, a, w),
    ),
    "addmm": (
        [B, A, W],
        lambda b, a, w: torch.addmm(input=b, mat1=a, mat2=w, beta=0.5),
        lambda b, a, w: 0.5 * b + one_by_one(torch.matmul, a, w),
    ),
    "div by a number": ([A], lambda a: torch.div(a, other=2.0), lambda a: a / 2),
    "maximum": (
        [A, B],
        lambda a, b: torch.maximum(input=a, other=b),
        lambda a, b: torch.where(a >= b, a, b),
    ),
    "maximum by NumPy's names": (
        [A, B],
        lambda a, b: torch.maximum(x1=a, x2=b),
        lambda a, b: torch.where(a >= b, a, b),
    ),
    "max over an axis": ([A], lambda a: a.max(axis=0).values, lambda a: a.gather(0, a.argmax(0)[None])[0]),
    "amax": (
        [A],
        lambda a: torch.amax(a, axis=1, keepdims=True),
        lambda a: a.gather(1, a.argmax(1)[:, None]),
    ),
    "clamp": ([A, B], lambda a, b: torch.clamp(input=a, max=b), lambda a, b: torch.where(a <= b, a, b)),
    "topk": (
        [A],
        lambda a: torch.topk(input=a, k=2, dim=1).values,
        lambda a: a.gather(1, a.argsort(1, descending=True)[:, :2]),
    ),
    "scatter_reduce": (
        [A, B],
        lambda a, b: torch.scatter_reduce(input=a, dim=1, index=INDEX, src=b, reduce="sum"),
        scattered,
    ),
    "sum": ([A], lambda a: torch.sum(input=a, axis=1), lambda a: a.sum(1)),
}


@pytest.mark.parametrize("name", CASES)
def test_an_argument_by_name_is_the_same_argument(name):
    inputs, operation, by_hand = CASES[name]
    assert_decomposes(decompose(operation, inputs), inputs, by_hand)


def test_tensors_and_what_is_required_are_put_in_order():
    x, mask = torch.ones(1), torch.zeros(1)
    assert by_position(torch.div, (), {"other": 2.0, "input": x}) == ((x, 2.0), {})
    assert by_position(torch.amax, (x,), {"axis": 1, "keepdims": True}) == ((x,), {"dim": 1, "keepdim": True})
    attention = F.scaled_dot_product_attention
    given = {"key": x, "value": x, "attn_mask": mask, "is_causal": False}
    assert by_position(attention, (x,), given) == ((x, x, x, mask), {"is_causal": False})
    # what lies between is not made up
    assert by_position(torch.clamp, (x,), {"max": mask}) == ((x,), {"max": mask})
    assert by_position(torch.sum, (x,), {"out": mask}) == ((x,), {"out": mask})


def test_functions_without_a_schema_are_left_alone():
    given = {"input": torch.ones(1), "dim": 0}
    assert by_position(F.softmax, (), given) == ((), given)
    assert by_position(lambda input: input, (), given) == ((), given)
    # no overload takes this
    assert by_position(torch.relu, (), {"inptu": given["input"]}) == ((), {"inptu": given["input"]})
