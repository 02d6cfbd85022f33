"""Copies for Captum's methods, which hook modules and switch flags of what they are given."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xai_align._tools.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Iterator


def own_model(model: Any, *, hooks_modules: bool = False) -> Any:
    """A replica of a network, out of place if its modules are hooked; another callable as it is."""
    return Replica(model, inplace=not hooks_modules).module if isinstance(model, nn.Module) else model


def own_model_and_layers(model: Any, options: dict[str, Any], *, hooks_modules: bool = False) -> tuple[Any, Any]:
    """As :func:`own_model`, with the options that name layers of the network naming those of the replica."""
    if not isinstance(model, nn.Module):
        return model, options
    copy = Replica(model, inplace=not hooks_modules)
    return copy.module, copy.rebind(options)


@contextmanager
def gradients_on() -> Iterator[None]:
    """Gradients can be taken inside, wherever this is called."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


def own_leaf(x: Tensor) -> Tensor:
    """A copy of an input that a method may ask the gradient of; the caller's tensor keeps its flags."""
    leaf = x.detach().clone()  # a copy of a tensor made under inference_mode is an ordinary one
    return leaf.requires_grad_() if leaf.is_floating_point() else leaf
