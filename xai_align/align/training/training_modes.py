"""Train and eval modes of modules during a step, and their restoration afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xai_align._tools.model_state import modules_of


class TrainingModes:
    """Train and eval modes of a model's modules in training.

    A model that is entirely in eval mode is trained in train mode. If some modules are in eval mode and others in
    train mode, they were frozen on purpose (usually BatchNorm), and stay so.

    Args:
        model: the model, in its original modes.
        freeze_batch_norm: use BatchNorm's running statistics and don't update them.
    """

    def __init__(self, model: nn.Module, *, freeze_batch_norm: bool = False) -> None:
        self._modules = list({id(module): module for module in modules_of(model)}.values())
        before = [module.training for module in self._modules]
        if not any(before):
            model.train()  # a custom train() may leave some modules in eval mode
        self._modes = [
            module.training and not (freeze_batch_norm and isinstance(module, _BatchNorm)) for module in self._modules
        ]
        self._set(before)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Put the model in its training modes inside the block, and restore them afterwards."""
        with self._as(self._modes):
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the whole model in eval mode inside the block, and restore the modes afterwards."""
        with self._as([False] * len(self._modules)):
            yield

    @contextmanager
    def _as(self, modes: list[bool]) -> Iterator[None]:
        before = [module.training for module in self._modules]
        try:
            self._set(modes)
            yield
        finally:
            self._set(before)

    def _set(self, modes: list[bool]) -> None:
        for module, mode in zip(self._modules, modes, strict=True):
            module.training = mode


class SavedBuffers:
    """Copy of a model's buffers, to restore after a failed forward pass, which updates BatchNorm."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        self._copies: list[Tensor] = []

    def save(self) -> None:
        """Store the current buffers."""
        self._copies = [buffer.clone() for buffer in self._buffers]

    def restore(self) -> None:
        """Restore the buffers that were stored last."""
        for buffer, copy in zip(self._buffers, self._copies, strict=True):
            buffer.copy_(copy)
