"""Gradients of networks that overwrite tensors in place which autograd saved: copies of these are saved instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def saved_copies() -> torch.autograd.graph.saved_tensors_hooks:
    """Return a context in which autograd saves copies."""
    return torch.autograd.graph.saved_tensors_hooks(_copy, _as_saved)


def is_overwriting(error: BaseException) -> bool:
    """Return whether this is autograd's error about a saved tensor that was overwritten."""
    return isinstance(error, RuntimeError) and "modified by an inplace operation" in str(error)


def copying_if_overwritten(run: Callable[[], T]) -> T:
    """Return what a function that differentiates a network returns; it runs again, with copies, if it has to."""
    try:
        return run()
    except RuntimeError as error:
        if not is_overwriting(error):
            raise
    with saved_copies():
        return run()


def _copy(x: Tensor) -> Tensor:
    return x.clone()


def _as_saved(x: Tensor) -> Tensor:
    return x
