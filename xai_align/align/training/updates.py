"""Optimiser step from accumulated gradients: checked, clipped, then applied or refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from xai_align.training.diverged import DivergedError


class Updater:
    """Optimiser with checks and gradient clipping.

    Args:
        parameters: the trained parameters.
        optimizer: their optimiser.
        gradient_clip: maximum norm of all gradients together; None: no clipping.
        scaler: scaler of the losses, which float16 needs; None: they are not scaled.
        name: name of the network in messages, e.g. "classifier".
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        *,
        gradient_clip: float | None,
        scaler: torch.amp.GradScaler | None = None,
        name: str,
    ) -> None:
        self.parameters, self.optimizer, self.name = list(parameters), optimizer, name
        self.scaler = scaler
        self._most = math.inf if gradient_clip is None else gradient_clip
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    @property
    def learning_rate(self) -> float:
        """Current learning rate of the first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def set_rate(self, share: float) -> None:
        """Set the learning rate of every group to this share of its initial one."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the scaled loss, large enough for gradients in float16."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def step(self, gradients: Sequence[Tensor | None], loss: Tensor) -> Tensor:
        """Make a step; return the norm of the gradients before clipping.

        Args:
            gradients: gradients of the scaled loss, for all parameters; None where the loss doesn't depend on one.
            loss: the unscaled loss.

        Raises:
            DivergedError: the loss or a gradient is NaN or infinite; the weights were not changed.
        """
        with self._as_gradients(gradients):
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self._most)
            # in float16 an infinite gradient is normal: the scaler skips the step and reduces the scale
            checked = loss.detach() if self.scaler is not None else loss.detach() + norm
            if not math.isfinite(checked.item()):
                found = (
                    f"the loss of the {self.name} was {loss.item()}"
                    if not math.isfinite(loss.item())
                    else f"the loss of the {self.name} was {loss.item():.4g}, but its gradient was {norm.item()}"
                )
                raise DivergedError(found)
            if self.scaler is None:
                self.optimizer.step()
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()
        return norm.detach()

    @contextmanager
    def _as_gradients(self, gradients: Sequence[Tensor | None]) -> Iterator[None]:
        """Set the parameters' ``.grad`` to these gradients inside the block, and restore them afterwards."""
        before = [p.grad for p in self.parameters]
        try:
            for p, gradient in zip(self.parameters, gradients, strict=True):
                p.grad = None if gradient is None else gradient.to(p.dtype)
            yield
        finally:
            for p, gradient in zip(self.parameters, before, strict=True):
                p.grad = gradient
