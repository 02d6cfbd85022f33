"""Train and eval: which module is in which while a step is made, and each one's own mode afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xai_align._tools.model_state import modules_of


class TrainingModes:
    """The modes that a model trains in.

    A model that is in eval mode as a whole is trained in train mode. If some modules are in eval mode and others in
    train mode, somebody froze them (BatchNorm, mostly), and they stay as they are.

    Args:
        model: in the modes that it was given in.
        freeze_batch_norm: BatchNorm uses and keeps the statistics that it has.
    """

    def __init__(self, model: nn.Module, *, freeze_batch_norm: bool = False) -> None:
        self._modules = list({id(module): module for module in modules_of(model)}.values())
        before = [module.training for module in self._modules]
        if not any(before):
            model.train()  # a model's own train() may leave some of it in eval mode
        self._modes = [
            module.training and not (freeze_batch_norm and isinstance(module, _BatchNorm)) for module in self._modules
        ]
        self._set(before)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Inside, the model is as it trains; after it, as before."""
        with self._as(self._modes):
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, all of the model is in eval mode; after it, as before."""
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


class KeptBuffers:
    """A copy of a model's buffers, to go back to when a forward pass went wrong: BatchNorm learns in passing."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        self._copies: list[Tensor] = []

    def keep(self) -> None:
        """The buffers are good now."""
        self._copies = [buffer.clone() for buffer in self._buffers]

    def put_back(self) -> None:
        """The buffers are as they were when they were last kept."""
        for buffer, copy in zip(self._buffers, self._copies, strict=True):
            buffer.copy_(copy)
