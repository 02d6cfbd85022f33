"""Restoration of the caller's state: training changes only weights, also after an exception."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from xai_align._tools.model_state import modules_of, parameters_of

if TYPE_CHECKING:
    from accelerate import Accelerator


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a fit changes, by name.

    Those from ``model.trainable_parameters()`` if the model has it; otherwise those that require grad.

    Raises:
        ValueError: there are none.
    """
    chosen = getattr(model, "trainable_parameters", None)
    wanted = {id(p) for p in (chosen() if callable(chosen) else model.parameters()) if p.requires_grad}
    found = {name: p for name, p in model.named_parameters() if id(p) in wanted}
    if not found:
        raise ValueError("no parameter of the model requires grad, so there is nothing to train")
    return found


@contextmanager
def preserved_except_weights(model: nn.Module, trained: Sequence[nn.Parameter]) -> Iterator[None]:
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


@contextmanager
def accelerator_for(model: nn.Module, mixed_precision: str) -> Iterator[Accelerator]:
    """Yield a separate :class:`accelerate.Accelerator`.

    ``accelerate`` has global settings, so a second fit in another precision, or a caller's own accelerator, would
    get the first one's. The block has its own settings; afterwards the previous ones are restored. The process
    group of several launched processes remains.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import GradientAccumulationPlugin

    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpu = all(p.device.type == "cpu" for p in parameters_of(model))
    cpu = on_cpu and not (launched and torch.cuda.is_available())  # launched processes get a GPU each
    several = PartialState._shared_state.get("num_processes", 1) > 1
    ours = (AcceleratorState, GradientState) if several else (AcceleratorState, GradientState, PartialState)
    before = [dict(state._shared_state) for state in ours]
    try:
        for state in ours:
            state._shared_state.clear()
        # the loop weights its passes itself, so a launcher's setting of gradient accumulation is overridden
        alone = GradientAccumulationPlugin(num_steps=1)
        accelerator = Accelerator(mixed_precision=mixed_precision, cpu=cpu, gradient_accumulation_plugin=alone)
        if mixed_precision == "fp16" and accelerator.device.type == "cpu":
            raise ValueError("fp16 is for GPUs; on a CPU choose mixed_precision='bf16'")
        yield accelerator
    finally:
        for state, kept in zip(ours, before, strict=True):
            if state is PartialState and launched:
                continue
            state._shared_state.clear()
            state._shared_state.update(kept)
