"""Epochs of a fit: steps, validations, and rows of the log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from xai_align._tools.random_state import seed_all
from xai_align.pinet.network.losses import Batch, PiNetLoss
from xai_align.pinet.rounding import wide
from xai_align.training.diverged import DivergedError
from xai_align.training.epoch_plan import MicroBatch, derived_seed, epoch_plan
from xai_align.training.pinet.batches import BatchSource
from xai_align.training.pinet.metric import FittingMetric
from xai_align.training.pinet.settings import LEAST_RATE, FitSettings
from xai_align.training.pinet.training import Training
from xai_align.training.pinet.validation import validate
from xai_align.training.training_log import Row


class LossOfModel(nn.Module):
    """Module whose output is the loss, so that wrappers of ``forward`` cover the whole computation.

    Gradient reduction over processes and mixed precision rely on this.
    """

    def __init__(self, model: nn.Module, loss: PiNetLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, images: Tensor, targets: Tensor, masks: Tensor | None, teacher: Tensor | None) -> Tensor:
        """Return the loss followed by its terms, ``[1 + T]``."""
        total, terms = self.loss(self.model, Batch(images, targets, masks, teacher))  # type: ignore[arg-type]
        return torch.stack([total, *(terms[name] for name in self.loss.names)])


@dataclass
class Stretch:
    """Sums over the steps since the last row."""

    sums: Tensor | float = 0.0
    steps: int = 0


@dataclass(kw_only=True)
class FitLoop:
    """Loop over the epochs of a fit.

    Attributes:
        settings: the options.
        training: state of the fit.
        model: the model in training.
        wrapped: its loss, prepared by the accelerator.
        optimizer: the optimiser, prepared by the accelerator.
        source: source of batches.
        train, validation: the data.
        metric: the validation metric.
        tell: called with every new row of the log.
        advance: called after every step, with the number of the epoch.
    """

    settings: FitSettings
    training: Training
    model: nn.Module
    wrapped: nn.Module
    optimizer: Any
    source: BatchSource
    train: Dataset[Any]
    validation: Dataset[Any] | None
    metric: FittingMetric
    tell: Callable[[Row], None]
    advance: Callable[[int], None]

    def run_epoch(self) -> None:
        """Run one more epoch, with its validations; ``training.stopped`` is set if it was the last."""
        training, every = self.training, self.settings.validate_every
        rank = self.source.accelerator.process_index
        seed_all(derived_seed(self.settings.seed, "epoch", training.epoch, rank))
        plan = self._plan()
        loader = self.source.of_plan(
            self.train, plan, derived_seed(self.settings.seed, "workers", training.epoch, rank)
        )
        batches, stretch = iter(loader), Stretch()
        began, before = time.monotonic(), training.seconds
        training.epoch += 1
        for number, pieces in enumerate(plan, 1):
            self._step([(piece, next(batches)) for piece in pieces], stretch)
            self.advance(training.epoch)
            training.seconds = before + time.monotonic() - began
            if number == len(plan) or (every and number % every == 0):
                self._end_stretch(stretch)
                stretch = Stretch()
                training.seconds = before + time.monotonic() - began
            if training.stopped:
                return
        self._end_epoch()

    def _plan(self) -> list[list[MicroBatch]]:
        return epoch_plan(
            len(self.train),  # type: ignore[arg-type]
            batch_size=self.settings.batch_size,
            passes=self.settings.passes,
            processes=self.source.accelerator.num_processes,
            rank=self.source.accelerator.process_index,
            seed=self.settings.seed,
            epoch=self.training.epoch,
        )

    def _step(self, pieces: list[tuple[MicroBatch, Batch]], stretch: Stretch) -> None:
        """Make one optimiser step: accumulate the gradients of all parts, weighted by their shares."""
        accelerator = self.source.accelerator
        self.model.train()
        for number, (piece, raw) in enumerate(pieces, 1):
            batch = self.source.at_hand(raw)
            with accelerator.no_sync(self.wrapped) if number < len(pieces) else nullcontext():
                found = self.wrapped(batch.images, batch.targets, batch.masks, batch.teacher)
                accelerator.backward(found[0] * piece.share)
            stretch.sums = stretch.sums + piece.share * wide(found.detach())
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.settings.schedule == "cosine":
            self.training.scheduler.step()
        self.training.step += 1
        stretch.steps += 1

    def _end_stretch(self, stretch: Stretch) -> None:
        """Add a row for the steps since the last one; with validation data, including the validation."""
        training, loss = self.training, self.settings.loss
        assert isinstance(stretch.sums, Tensor)
        means = self.source.over_processes(stretch.sums) / (self.source.accelerator.num_processes * stretch.steps)
        row: Row = {
            "epoch": training.epoch,
            "step": training.step,
            "seconds": round(training.seconds, 3),
            "learning_rate": training.optimizer.param_groups[0]["lr"],
        }
        row |= dict(zip(("loss", *loss.names), means.tolist(), strict=True))
        if not math.isfinite(row["loss"]):
            raise DivergedError(
                f"the loss was {row['loss']} between steps {training.step - stretch.steps + 1} and {training.step} "
                f"(epoch {training.epoch}); the model has the best weights from before. Give a smaller learning_rate "
                f"than {row['learning_rate']:.3g}, or look for extreme values in the images"
            )
        if self.validation is not None:
            row["validation_loss"], row[self.metric.name] = validate(
                self.model,
                self.validation,
                self.source,
                loss=loss,
                metric=self.metric,
                batch_size=self.settings.batch_size,
            )
            self._judge(row)
        training.history.append(row)
        self.tell(row)

    def _judge(self, row: Row) -> None:
        """Update the best weights, and decide whether to stop. Ties go to the lower validation loss."""
        training, settings, value, best = self.training, self.settings, row[self.metric.name], self.training.best
        than = float("nan") if best is None else best[self.metric.name]
        better = best is None or self.metric.is_better(value, than)
        level = value == than or (math.isnan(value) and math.isnan(than))
        lower = best is not None and row["validation_loss"] < best["validation_loss"]
        row["best"] = better or (level and lower)
        if row["best"]:
            training.remember_as_best(row)
        training.since_best = 0 if better else training.since_best + 1
        if settings.stop_at is not None and self.metric.has_reached(value, settings.stop_at):
            training.stopped = "stop_at"
        elif settings.patience is not None and training.since_best >= settings.patience:
            training.stopped = "patience"

    def _end_epoch(self) -> None:
        if self.settings.schedule != "plateau":
            return
        row = self.training.history[-1]
        self.training.scheduler.step(row.get("validation_loss", row["loss"]))
        if all(group["lr"] <= LEAST_RATE for group in self.training.optimizer.param_groups):
            self.training.stopped = "plateau"
