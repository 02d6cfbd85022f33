"""Preserved state: training changes only weights, also after an exception."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from xai_align._tools.model_state import check_has_values, modules_of, parameters_of
from xai_align._tools.random_state import kept_random_state
from xai_align.training.precision import check_precision


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a fit changes, by name.

    Those from ``model.trainable_parameters()`` if the model has it; otherwise those that require grad.

    Raises:
        ValueError: there are none, or they can't be trained: float16, made in inference mode, or without values.
    """
    check_has_values(model)
    frozen = [name for name, one in (*model.named_parameters(), *model.named_buffers()) if one.is_inference()]
    if frozen:
        raise ValueError(
            f"'{frozen[0]}' of the {type(model).__name__} was made inside torch.inference_mode(), and PyTorch can't "
            "train such tensors; make or load the network outside of it, or give copy.deepcopy(model)"
        )
    chosen = getattr(model, "trainable_parameters", None)
    wanted = {id(p) for p in (chosen() if callable(chosen) else model.parameters()) if p.requires_grad}
    found = {name: p for name, p in model.named_parameters() if id(p) in wanted}
    if not found:
        raise ValueError("no parameter of the model requires grad, so there is nothing to train")
    check_precision(found)
    return found


@contextmanager
def preserved_state(*networks: nn.Module) -> Iterator[None]:
    """Preserve random states and everything of the networks but their weights, and enable gradients inside the block.

    Raises:
        ValueError: a network has nothing to train.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(kept_random_state())
        for network in networks:
            stack.enter_context(_preserved_except_weights(network, list(trained_parameters(network).values())))
        yield


@contextmanager
def _preserved_except_weights(model: nn.Module, trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let only ``trained`` require grad and clear ``.grad`` inside the block; afterwards restore all but the weights.

    Restored are the train and eval modes of every module, ``requires_grad``, ``.grad`` and the device.
    """
    modes = [(module, module.training) for module in modules_of(model)]
    parameters = {id(p): p for p in parameters_of(model)}.values()
    flags = [(p, p.requires_grad, p.grad, p.device) for p in parameters]
    wanted = {id(p) for p in trained}
    try:
        for p, _, _, _ in flags:
            p.grad = None
            p.requires_grad_(id(p) in wanted)
        yield
    finally:
        devices = {device for _, _, _, device in flags}
        for p, required, _, _ in flags:
            p.grad = None
            p.requires_grad_(required)
        if len(devices) == 1:
            model.to(devices.pop())
        for p, _, gradient, _ in flags:
            p.grad = gradient
        for module, mode in modes:
            module.training = mode
