"""Running Captum's methods so that they leave the model, its inputs and the random state as they were."""

from __future__ import annotations

import warnings
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from xai_align.model_state import frozen_parameters, unchanged_rng, without_inplace

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def undisturbed(model: Any, *, hooks_modules: bool) -> Iterator[None]:
    """Gradients on, parameters out of the graph; with ``hooks_modules``, ready for hooks on modules too.

    ``model`` may be any callable; only an ``nn.Module`` has a state to keep.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if isinstance(model, nn.Module):
            stack.enter_context(frozen_parameters(model))
            if hooks_modules:
                stack.enter_context(without_inplace(model))
                stack.enter_context(without_leftovers(model))
                stack.enter_context(_quiet_about_hooks())
        yield


@contextmanager
def without_leftovers(model: nn.Module) -> Iterator[None]:
    """Attributes that modules gain inside are taken off again: DeepLift parks its activations there."""
    before = {module: set(module.__dict__) for module in model.modules()}
    try:
        yield
    finally:
        for module, names in before.items():
            for name in set(module.__dict__) - names:
                delattr(module, name)


@contextmanager
def fixed_random_state(device: torch.device, seed: int = 0) -> Iterator[None]:
    """The same random numbers at every call, from torch and from numpy; the caller's are kept."""
    numpy_state = np.random.get_state()
    with unchanged_rng():
        # not torch.manual_seed: that would also seed devices which are not in use yet
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)


def own_leaf(x: Tensor) -> Tensor:
    """A copy of an input that a method may ask the gradient of; the caller's tensor keeps its flags."""
    leaf = x.detach().clone()  # a copy of a tensor made under inference_mode is an ordinary one
    return leaf.requires_grad_() if leaf.is_floating_point() else leaf


@contextmanager
def _quiet_about_hooks() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting (forward, )?backward hooks")
        yield
