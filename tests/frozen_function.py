"""A function decomposed by itself, without a network around it: its coefficients, its bias, its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from xai_align.pinet.gates import operation_table
from xai_align.pinet.gates.frozen_gates import FrozenGates

__all__ = [
    "Decomposed",
    "assert_decomposes",
    "assert_of_one_kind",
    "decompose",
    "held",
    "number",
    "one_by_one",
    "operation_table",
    "projected",
]


class Decomposed(NamedTuple):
    """``value = sum over inputs of sum(beta * x) + bias``, for a projection of what the function gives."""

    value: Tensor
    betas: list[Tensor]
    bias: Tensor
    dependent: bool
    outputs: list[Any]
    kinds: list[Any]

    def error(self, inputs: list[Tensor]) -> float:
        total = sum((beta * x).sum() for beta, x in zip(self.betas, inputs, strict=True))
        return float((total + self.bias - self.value).detach().abs())


def projected(result: Any) -> Tensor:
    """One real number that every entry of the floating tensors in a result acts on."""
    total = torch.zeros((), dtype=torch.float64)
    for number, leaf in enumerate(_floating(result)):
        weights = torch.linspace(-1, 2, leaf.numel(), dtype=torch.float64).view(leaf.shape) + 0.1 * number
        if leaf.is_complex():
            total = total + (weights * leaf.real + (1 - weights) * leaf.imag).sum()
        else:
            total = total + (weights * leaf).sum()
    return total


def _floating(result: Any) -> list[Tensor]:
    leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.is_floating_point() or leaf.is_complex()]


def decompose(function: Callable[..., Any], inputs: list[Tensor], **mode: Any) -> Decomposed:
    """Record ``function(*inputs)`` with every input dependent, differentiate it, and replay it at zero."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    gates = FrozenGates(**mode)
    with torch.enable_grad():
        given = [leaf.clone() for leaf in leaves]
        # copies, as a readout saves them where a network overwrites what the way back needs
        with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda x: x), gates:
            result = function(*given)
        value = projected(result)
        dependent = value.requires_grad
        betas = (
            list(torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True))
            if dependent
            else [torch.zeros_like(x) for x in inputs]
        )
    zeros = [torch.zeros_like(x) for x in inputs]
    with gates.replay():
        at_zero = function(*zeros)
    return Decomposed(value.detach(), betas, projected(at_zero).detach(), dependent, _floating(result), kinds(result))


def number(seed: int, *shape: int) -> Tensor:
    """Normal numbers, the first three of them 0, -0 and 2.5."""
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x.view(-1)[:3] = torch.tensor([0.0, -0.0, 2.5])
    return x


def held(value: Tensor, x: Tensor) -> Tensor:
    """``stop(value / x)``, and 0 where ``x`` is."""
    return torch.where(x == 0, 0, value / torch.where(x == 0, 1, x)).detach()


def one_by_one(f: Callable[..., Tensor], *factors: Tensor) -> Tensor:
    """The mean over the factors of ``f`` with all the others detached."""
    count = len(factors)
    turns = [f(*(x if at == alive else x.detach() for at, x in enumerate(factors))) for alive in range(count)]
    return sum(turns[1:], turns[0]) / count


def kinds(result: Any) -> list[Any]:
    """Type, shapes and dtypes of what an operation gives."""
    return [type(result), *((one.shape, one.dtype) for one in tree_leaves(result) if isinstance(one, Tensor))]


def assert_of_one_kind(found: Decomposed, plain: Any) -> None:
    """What came out has the type, shapes and dtypes of what the plain operation gives."""
    assert found.kinds == kinds(plain)


def assert_decomposes(found: Decomposed, inputs: list[Tensor], by_hand: Callable[..., Any]) -> None:
    """Value, coefficients and bias are those of a function that was detached by hand."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    value = projected(by_hand(*leaves))
    if value.requires_grad:
        expected = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    else:
        expected = tuple(torch.zeros_like(x) for x in inputs)
    assert torch.allclose(found.value, value.detach(), rtol=1e-10, atol=1e-12)
    for beta, one in zip(found.betas, expected, strict=True):
        assert torch.allclose(beta, one, rtol=1e-9, atol=1e-11)
    total = sum((beta * x).sum() for beta, x in zip(expected, inputs, strict=True))
    assert torch.allclose(found.bias, value.detach() - total, rtol=1e-8, atol=1e-10)
