"""State of the fit of one network: one optimiser, one schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from xai_align._tools.files.fields import Rule, anything, like
from xai_align.pinet.network.frozen_encoder import frozen_tensors
from xai_align.training.checkpoints import Snapshot
from xai_align.training.fit_state import FitState, weights_of
from xai_align.training.optimizer_state import optimizer_state, plain_value, restore_optimizer
from xai_align.training.restoring import below, check_optimizer


class NetworkFitState(FitState):
    """State of a fit.

    Args:
        model: the model with its initial weights. All are saved, except for a frozen encoder, which is large and known.
        trained: the parameters that change, by name.
        optimizer: optimiser of these parameters.
        scheduler: schedule of the learning rate; None: it is constant.
        scaler: gradient scaler in float16; None otherwise.
    """

    prefix = "model/"

    def __init__(
        self,
        model: nn.Module,
        trained: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        scaler: Any = None,
    ) -> None:
        known = frozen_tensors(model)
        weights = {name: value for name, value in weights_of(model).items() if name not in known}
        super().__init__(weights, trained.values(), initial_is_best=True)
        self.optimizer, self.scheduler, self.scaler = optimizer, scheduler, scaler

    def own_snapshot(self) -> Snapshot:
        """Return optimiser, schedule and scaler."""
        tensors, numbers = optimizer_state(self.optimizer)
        return Snapshot(
            {f"optimizer/{name}": value for name, value in tensors.items()},
            {"optimizer": numbers, "scheduler": self._schedule(), "scaler": self._scale()},
        )

    def own_rules(self) -> Mapping[str, Rule]:
        """Return the rules of optimiser, schedule and scaler."""
        return {"optimizer": anything, "scheduler": like(self._schedule()), "scaler": like(self._scale())}

    def check_own(self, snapshot: Snapshot, source: str) -> None:
        """Check the optimiser's state."""
        check_optimizer(
            self.optimizer, below("optimizer/", snapshot), snapshot.numbers["optimizer"], "optimizer", source
        )

    def load_own(self, snapshot: Snapshot) -> None:
        """Restore optimiser, schedule and scaler."""
        restore_optimizer(self.optimizer, below("optimizer/", snapshot), snapshot.numbers["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(snapshot.numbers["scheduler"])
        if self.scaler is not None:
            self.scaler.load_state_dict(snapshot.numbers["scaler"])

    def _schedule(self) -> Any:
        return None if self.scheduler is None else plain_value(self.scheduler.state_dict(), "the schedule")

    def _scale(self) -> Any:
        return None if self.scaler is None else self.scaler.state_dict()
