"""Copies for Captum's methods, which set hooks on modules and flags on tensors."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xai_align.adapter_tools import Replica

if TYPE_CHECKING:
    from collections.abc import Iterator


def own_model(model: Any, *, hooks_modules: bool = False) -> Any:
    """Return a replica of a network, out of place if its modules are hooked, or another callable unchanged."""
    return Replica(model, inplace=not hooks_modules).module if isinstance(model, nn.Module) else model


def own_model_and_layers(model: Any, options: dict[str, Any], *, hooks_modules: bool = False) -> tuple[Any, Any]:
    """Return :func:`own_model`, and the options with layers of the network replaced by the replica's."""
    if not isinstance(model, nn.Module):
        return model, options
    copy = Replica(model, inplace=not hooks_modules)
    return copy.module, copy.rebind(options)


@contextmanager
def gradients_on() -> Iterator[None]:
    """Enable gradients inside, even under ``no_grad`` or ``inference_mode``."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


def own_leaf(x: Tensor) -> Tensor:
    """Return a copy of an input that may require grad; the caller's tensor keeps its flags."""
    leaf = x.detach().clone()  # the copy of an inference tensor is an ordinary tensor
    return leaf.requires_grad_() if leaf.is_floating_point() else leaf
