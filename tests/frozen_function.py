"""A function decomposed by itself, without a network around it: its coefficients, its bias, its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from xai_align.pinet.gates import operation_table
from xai_align.pinet.gates.frozen_gates import FrozenGates

__all__ = ["Decomposed", "decompose", "operation_table", "projected"]


class Decomposed(NamedTuple):
    """``value = sum over inputs of sum(beta * x) + bias``, for a projection of what the function gives."""

    value: Tensor
    betas: list[Tensor]
    bias: Tensor
    dependent: bool
    outputs: list[Any]

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


def decompose(function: Callable[..., Any], inputs: list[Tensor], **manner: bool) -> Decomposed:
    """Record ``function(*inputs)`` with every input dependent, differentiate it, and replay it at zero."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    gates = FrozenGates(**manner)
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
    return Decomposed(value.detach(), betas, projected(at_zero).detach(), dependent, _floating(result))
