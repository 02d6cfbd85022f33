"""Decomposition at a layer followed by an affine head: local, and without frozen gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from xai_align.features.routes import Route
from xai_align.pinet.decomposition import Decomposition, decomposition_of
from xai_align.pinet.input_checks import check_logits
from xai_align.pinet.rounding import answer_of
from xai_align.question import Question, linear_forms


def decompose_locally(route: Route, questions: Sequence[Question], logits: Tensor | None = None) -> Decomposition:
    """Return the decomposition for an affine head, from ``beta`` and bias at ``z = 0``, without a backbone gradient."""
    with torch.no_grad():
        found = check_logits(route.run(_as_it_is))
    weights, rest = linear_forms(questions, found)
    with torch.enable_grad():
        origin = [torch.zeros_like(z, requires_grad=True) for z in tree_leaves(route.z)]
        places = iter(origin)
        at_zero = answer_of(weights.clone(), check_logits(route.run(lambda number, z: next(places))))
        beta = torch.autograd.grad(at_zero.sum(), origin, materialize_grads=True)
    contributions = tuple(z * b for z, b in zip(tree_leaves(route.z), beta, strict=True))
    return replace(decomposition_of(found, weights, rest, contributions, at_zero.detach()), slopes=beta)


def _as_it_is(number: int, z: Tensor) -> Tensor:
    return z
