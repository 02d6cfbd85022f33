"""Dependence of tensors on the feature space ``z``, by ``requires_grad``: ``z`` is the only leaf that requires it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def look_at(args: Sequence[Any], kwargs: Mapping[str, Any], since: int = 0) -> tuple[bool, bool]:
    """Return whether a tensor depends on ``z``, and whether one requires grad for another reason.

    Such foreign tensors are leaves, which are parameters accessed without their module, and tensors whose graph is
    older than the recording (``since``), which were computed from parameters before.
    """
    alive = foreign = False
    for value in args:
        if isinstance(value, Tensor):
            if value.requires_grad:
                if is_foreign(value, since):
                    foreign = True
                else:
                    alive = True
        elif isinstance(value, list | tuple):
            inner_alive, inner_foreign = look_at(value, {}, since)
            alive, foreign = alive or inner_alive, foreign or inner_foreign
        elif isinstance(value, dict):
            inner_alive, inner_foreign = look_at((), value, since)
            alive, foreign = alive or inner_alive, foreign or inner_foreign
    if kwargs:
        inner_alive, inner_foreign = look_at(tuple(kwargs.values()), {}, since)
        alive, foreign = alive or inner_alive, foreign or inner_foreign
    return alive, foreign


def is_foreign(tensor: Tensor, since: int) -> bool:
    """Return whether a tensor that requires grad does so for another reason than ``z``."""
    if tensor.is_leaf:
        return True
    return since > 0 and tensor.grad_fn._sequence_nr() < since  # type: ignore[union-attr]


def latest_node() -> int:
    """Return the number of a graph node created now in the current thread; later nodes have higher numbers."""
    return torch.ones((), requires_grad=True).clone().grad_fn._sequence_nr()  # type: ignore[union-attr]
