"""One step of an optimiser, from gradients that were added up: looked at, clipped, applied, or refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xai_align.training.diverged import DivergedError


class Updater:
    """An optimiser and what guards it.

    Args:
        parameters: those that are trained.
        optimizer: over them.
        gradient_clip: the largest norm that all gradients together may have; None: any.
        scaled: whether losses are scaled, as float16 needs it.
        what: how messages call the network: "classifier".
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        *,
        gradient_clip: float | None,
        scaled: bool,
        what: str,
    ) -> None:
        self.parameters, self.optimizer, self.what = list(parameters), optimizer, what
        self.scaler: Any = torch.amp.GradScaler(self.parameters[0].device.type) if scaled else None
        self._most = math.inf if gradient_clip is None else gradient_clip
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    @property
    def learning_rate(self) -> float:
        """Of the first group, now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def set_rate(self, share: float) -> None:
        """Every group has this share of the learning rate that it began with."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss, large enough for gradients in float16."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def step(self, gradients: Sequence[Tensor | None], loss: Tensor) -> Tensor:
        """Make a step; the norm that the gradients had, before they were clipped.

        Args:
            gradients: of all parameters, of the scaled loss; None where the loss doesn't depend on one.
            loss: its value, not scaled.

        Raises:
            DivergedError: the loss or a gradient is NaN or infinite; the weights were not changed.
        """
        with self._as_gradients(gradients):
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self._most)
            # in float16 an infinite gradient is ordinary: the scaler passes over the step and scales less
            looked_at = loss.detach() if self.scaler is not None else loss.detach() + norm
            if not math.isfinite(looked_at.item()):
                found = (
                    f"the loss of the {self.what} was {loss.item()}"
                    if not math.isfinite(loss.item())
                    else f"the loss of the {self.what} was {loss.item():.4g}, but its gradient was {norm.item()}"
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
        """Inside, the parameters' ``.grad`` are these; after it, what they were."""
        before = [p.grad for p in self.parameters]
        try:
            for p, gradient in zip(self.parameters, gradients, strict=True):
                p.grad = None if gradient is None else gradient.to(p.dtype)
            yield
        finally:
            for p, gradient in zip(self.parameters, before, strict=True):
                p.grad = gradient
