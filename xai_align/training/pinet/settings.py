"""Options of a fit, checked once, and the configuration that identifies a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from xai_align._tools.checks import check_integer, check_number
from xai_align.pinet.network.frozen_encoder import frozen_tensors
from xai_align.pinet.network.losses import PiNetLoss
from xai_align.training.description import described_optimizer, described_parameters
from xai_align.training.digest import digest_of
from xai_align.training.pinet.options import FitOptions

#: The schedule "plateau", as for the paper's flood model: a fifth of the rate after five epochs without progress.
PLATEAU = {"factor": 0.2, "patience": 5}
#: Learning rate at which a plateau ends the training.
LEAST_RATE = 1e-5

#: Options that two runs must share for one to resume the other.
_IDENTIFYING = (
    *("batch_size", "gradient_accumulation_steps", "schedule", "validate_every", "patience", "stop_at", "keep"),
    *("seed", "mixed_precision"),
)


@dataclass(frozen=True, kw_only=True)
class FitSettings(FitOptions):
    """All options of a fit, checked; see :func:`~xai_align.training.fit_pinet`."""

    loss: PiNetLoss
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("epochs", self.epochs)
        check_integer("batch_size", self.batch_size)
        check_number("learning_rate", self.learning_rate, above=0)

    def step_size(self, processes: int) -> int:
        """Return the maximum number of examples in a step."""
        return self.batch_size * self.gradient_accumulation_steps * processes

    def check_with_data(self, train: int, processes: int, validated: bool) -> None:
        """Raise if the options and the data are incompatible.

        Raises:
            ValueError: a step needs more examples than there are, or an option needs validation data.
        """
        step = self.step_size(processes)
        if step > train:
            parts = f"batch_size {self.batch_size}"
            parts += f" x {self.gradient_accumulation_steps} passes" if self.gradient_accumulation_steps > 1 else ""
            parts += f" x {processes} processes" if processes > 1 else ""
            raise ValueError(
                f"a step takes {step} examples ({parts}), but the training data have {train}; give a smaller batch_size"
            )
        for name, value in (("patience", self.patience), ("stop_at", self.stop_at)):
            if value is not None and not validated:
                raise ValueError(f"{name} needs validation data; give validation=...")

    def new_optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser of these parameters. Without weight decay AdamW is Adam."""
        if self.optimizer is not None:
            return self.optimizer(parameters)
        return torch.optim.AdamW(parameters, self.learning_rate, self.betas, weight_decay=self.weight_decay)

    def new_scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        """Return the schedule of the learning rate over this many steps; None: it is constant."""
        if self.schedule == "cosine":  # from the full rate to zero over half a period
            return torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2
            )
        if self.schedule == "plateau":
            return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **PLATEAU)  # type: ignore[arg-type]
        return None


def configuration(
    settings: FitSettings,
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    trained: Mapping[str, nn.Parameter],
    data: Mapping[str, Any],
    *,
    processes: int,
    teacher: bool,
) -> dict[str, Any]:
    """Return the configuration that two runs must share for one to resume the other, in JSON types.

    The number of epochs is part of it only if the schedule depends on it: a run may be extended.
    """
    frozen = frozen_tensors(model)
    return {
        **{name: getattr(settings, name) for name in _IDENTIFYING},
        "loss": settings.loss.settings(),
        "processes": processes,
        "optimizer": described_optimizer(optimizer),
        "epochs": settings.epochs if settings.schedule == "cosine" else None,
        "teacher": teacher,
        "trained": described_parameters(trained),
        "frozen": digest_of(frozen)[:16] if frozen else None,
        **data,
    }
