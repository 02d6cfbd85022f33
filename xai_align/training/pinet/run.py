"""One run of a fit: its optimiser, state and checkpoints, and its start or resumption."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from xai_align.training.checkpoints import Checkpoints
from xai_align.training.choices import Resume
from xai_align.training.epoch_plan import steps_in_epoch
from xai_align.training.pinet.dataset_validation import DatasetSummary
from xai_align.training.pinet.loop import LossOfModel
from xai_align.training.pinet.settings import FitSettings, configuration
from xai_align.training.pinet.training import Training

if TYPE_CHECKING:
    from accelerate import Accelerator

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Objects of one call of the fit.

    Attributes:
        accelerator: devices, precision, processes.
        wrapped, optimizer: the model's loss and its optimiser, prepared by the accelerator.
        training: state of the fit.
        checkpoints: the checkpoints; None: none are written.
        settings: the options.
    """

    accelerator: Accelerator
    wrapped: nn.Module
    optimizer: Any
    training: Training
    checkpoints: Checkpoints | None
    settings: FitSettings

    @staticmethod
    def prepare(
        model: nn.Module,
        trained: Mapping[str, nn.Parameter],
        settings: FitSettings,
        accelerator: Accelerator,
        data: Mapping[str, DatasetSummary | None],
        taught: bool,
        folder: Path | None,
    ) -> Run:
        """Make a run; the model is on its device."""
        bare = settings.optimizer(list(trained.values()))
        config = configuration(
            settings, bare, model, trained, data, processes=accelerator.num_processes, teacher=taught
        )
        count = data["train"].count if data["train"] else 0
        size = settings.batch_size * settings.passes * accelerator.num_processes
        scheduler = settings.scheduler(bare, settings.epochs * steps_in_epoch(count, size))
        wrapped, optimizer = accelerator.prepare(
            LossOfModel(model, settings.loss), bare, device_placement=[False, False]
        )
        return Run(
            accelerator=accelerator,
            wrapped=wrapped,
            optimizer=optimizer,
            training=Training(model, trained, bare, scheduler, accelerator.scaler),
            checkpoints=None if folder is None else Checkpoints(folder / "checkpoints", config),
            settings=settings,
        )

    @property
    def step_size(self) -> int:
        """Number of examples in a step, over all processes."""
        return self.settings.batch_size * self.settings.passes * self.accelerator.num_processes

    def begin(self, resume: Resume) -> tuple[str, ...]:
        """Resume from the newest checkpoint if there is one, or write the first; return notes."""
        if self.checkpoints is None:
            return ()
        if resume == "never" and self.checkpoints.paths():
            raise ValueError(
                f"'{self.checkpoints.folder}' holds a run already; choose another folder, "
                "or go on with it (resume='auto')"
            )
        there = self.checkpoints.newest()
        self.accelerator.wait_for_everyone()  # wait before the first process writes
        if there is None:
            if resume == "must":
                raise ValueError(f"'{self.checkpoints.folder}' holds no checkpoint to go on from")
            self.keep()
            return ()
        path, snapshot = there
        self.training.restore(snapshot, f"'{path}'")
        done = self.training.epoch
        note = (
            f"going on from the end of epoch {done} ('{path}'); what was done of a later epoch is done again"
            if not self.training.stopped and done < self.settings.epochs
            else f"the run in '{path.parent}' was finished after epoch {done}; nothing was left to do"
        )
        _log.info(note)
        return (note,)

    def keep(self) -> None:
        """Write a checkpoint, if there is a folder for it."""
        if self.checkpoints is not None and self.accelerator.is_main_process:
            self.checkpoints.write(self.training.epoch, self.training.snapshot())
        self.accelerator.wait_for_everyone()
