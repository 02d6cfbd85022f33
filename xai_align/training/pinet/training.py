"""State of a fit, with saving to and restoring from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.files.fields import anything, like, record
from xai_align.pinet.network.frozen_encoder import frozen_tensors
from xai_align.training.checkpoints import Snapshot
from xai_align.training.optimizer_state import optimizer_state, plain_value, restore_optimizer
from xai_align.training.restoring import PROGRESS, atomically, below, check_kept, check_optimizer
from xai_align.training.training_log import Row

_OPTIMIZER, _MODEL, _BEST = "optimizer/", "model/", "best/"


class Training:
    """State of a fit.

    Random states need not be saved: every epoch starts with seeds derived from the run's seed and its number.

    Args:
        model: the model with its initial weights, which count as the best until a validation.
        trained: the parameters that change, by name. Buffers may change too. Everything else is saved as well, except
            for a frozen encoder, which is large and known.
        optimizer: optimiser of these parameters.
        scheduler: schedule of the learning rate; None: it is constant.
        scaler: gradient scaler in float16; None otherwise.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        scaler: Any = None,
    ) -> None:
        self.optimizer, self.scheduler, self.scaler = optimizer, scheduler, scaler
        known = frozen_tensors(model)
        free: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._kept = {name: value for name, value in free.items() if name not in known}
        self._changing = {
            name: value for name, value in self._kept.items() if name in trained or not isinstance(value, nn.Parameter)
        }
        self.epoch, self.step = 0, 0
        self.seconds = 0.0
        self.history: list[Row] = []
        #: The row of the best validation, and the number of validations since.
        self.best: Row | None = None
        self.since_best = 0
        self.stopped: str | None = None
        self._best_weights = self._copy()

    def remember_as_best(self, row: Row) -> None:
        """Store the current weights as the best so far."""
        self.best, self.since_best = row, 0
        self._best_weights = self._copy()

    @torch.no_grad()
    def take_best_weights(self) -> None:
        """Load the best weights so far into the model."""
        for name, value in self._best_weights.items():
            self._changing[name].copy_(value)

    def snapshot(self) -> Snapshot:
        """Return everything that the next epoch depends on."""
        tensors = {_MODEL + name: value for name, value in self._kept.items()}
        tensors |= {_BEST + name: value for name, value in self._best_weights.items()}
        optimizer_tensors, optimizer_numbers = optimizer_state(self.optimizer)
        tensors |= {_OPTIMIZER + name: value for name, value in optimizer_tensors.items()}
        numbers = {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "best": self.best,
            "since_best": self.since_best,
            "stopped": self.stopped,
            "optimizer": optimizer_numbers,
            "scheduler": None if self.scheduler is None else plain_value(self.scheduler.state_dict(), "the schedule"),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        return Snapshot(tensors, numbers)

    @torch.no_grad()
    def restore(self, snapshot: Snapshot, source: str = "the snapshot") -> None:
        """Restore a snapshot, or change nothing.

        Raises:
            ValueError: it is not from this fit; the message names the source.
        """
        self._check(snapshot, source)
        before = self.snapshot()
        before = Snapshot({name: value.clone() for name, value in before.tensors.items()}, before.numbers)
        with atomically(lambda: self._take(before), source):
            self._take(snapshot)

    def _check(self, snapshot: Snapshot, source: str) -> None:
        of_schedule = None if self.scheduler is None else plain_value(self.scheduler.state_dict(), "the schedule")
        rule = record(
            {
                **PROGRESS,
                "optimizer": anything,
                "scheduler": like(of_schedule),
                "scaler": like(None if self.scaler is None else self.scaler.state_dict()),
            },
            {"config": anything},
        )
        if complaint := rule(snapshot.numbers, ""):
            raise ValueError(f"{source} is not what it should be: {complaint}")
        check_optimizer(self.optimizer, below(_OPTIMIZER, snapshot), snapshot.numbers["optimizer"], "optimizer", source)
        check_kept(self._kept, below(_MODEL, snapshot), source)
        check_kept(self._changing, below(_BEST, snapshot), source)

    def _take(self, snapshot: Snapshot) -> None:
        numbers = snapshot.numbers
        for name, value in self._kept.items():
            value.copy_(snapshot.tensors[_MODEL + name])
        for name, value in self._changing.items():
            self._best_weights[name] = snapshot.tensors[_BEST + name].to(value.device)
        restore_optimizer(self.optimizer, below(_OPTIMIZER, snapshot), numbers["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(numbers["scheduler"])
        if self.scaler is not None:
            self.scaler.load_state_dict(numbers["scaler"])
        self.epoch, self.step = numbers["epoch"], numbers["step"]
        self.seconds, self.since_best = numbers["seconds"], numbers["since_best"]
        self.history, self.best = list(numbers["history"]), numbers["best"]
        self.stopped = numbers["stopped"]

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._changing.items()}
