"""Training program of a PiNet: one step of one network, its loss and its validation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from xai_align._tools.model_state import parameters_of
from xai_align._tools.random_state import seed_all
from xai_align.pinet.network.losses import Batch
from xai_align.training.diverged import DivergedError
from xai_align.training.engine import Program, StepContext
from xai_align.training.epoch_plan import Shard, derived_seed, epoch_plan, steps_in_epoch
from xai_align.training.network_fit_state import NetworkFitState
from xai_align.training.pinet.batches import BatchSource
from xai_align.training.pinet.metric import FittingMetric
from xai_align.training.pinet.settings import LEAST_RATE, FitSettings
from xai_align.training.pinet.validation import validate
from xai_align.training.precision import autocast
from xai_align.training.process_group import ProcessGroup
from xai_align.training.step_means import StepMeans
from xai_align.training.training_log import Row


@dataclass(kw_only=True)
class PiNetProgram(Program):
    """Steps and validation of a PiNet.

    Attributes:
        settings: the options.
        state: state of the fit.
        network: the model in training.
        source: source of batches.
        train, validation: the data.
        metric: the validation metric.
        group: the processes.
    """

    settings: FitSettings
    state: NetworkFitState
    network: nn.Module
    source: BatchSource
    train: Dataset[Any]
    validation: Dataset[Any] | None
    metric: FittingMetric
    group: ProcessGroup

    def steps_in_epoch(self) -> int:
        """Return the number of steps in an epoch."""
        return steps_in_epoch(len(self.train), self.settings.step_size(self.group.count))  # type: ignore[arg-type]

    def batches(self, epoch: int) -> Iterator[list[tuple[Shard, Batch]]]:
        """Seed the epoch and yield this process's shards of each step, one for each forward pass."""
        seed, rank = self.settings.seed, self.group.rank
        seed_all(derived_seed(seed, "epoch", epoch, rank))
        plan = epoch_plan(
            len(self.train),  # type: ignore[arg-type]
            batch_size=self.settings.batch_size,
            passes=self.settings.gradient_accumulation_steps,
            processes=self.group.count,
            rank=rank,
            seed=seed,
            epoch=epoch,
        )
        batches = iter(self.source.planned(self.train, plan, derived_seed(seed, "workers", epoch, rank)))
        for shards in plan:
            yield [(shard, next(batches)) for shard in shards]

    def step(self, batch: list[tuple[Shard, Batch]], context: StepContext, means: StepMeans) -> None:
        """Make one optimiser step: accumulate the gradients of all shards, weighted by their shares of the examples."""
        state, loss = self.state, self.settings.loss
        self.network.train()
        for shard, raw in batch:
            examples = self.source.on_device(raw)
            with autocast(self.source.device, self.settings.mixed_precision):
                total, terms = loss(self.network, examples)  # type: ignore[arg-type]
            weighted = total.to(torch.promote_types(total.dtype, torch.float32)) * shard.share
            (weighted if state.scaler is None else state.scaler.scale(weighted)).backward()
            for name, value in (("loss", total), *((name, terms[name]) for name in loss.names)):
                means.add(name, value, shard.share)
        self._sum_gradients()
        if state.scaler is None:
            state.optimizer.step()
        else:
            state.scaler.step(state.optimizer)
            state.scaler.update()
        state.optimizer.zero_grad()
        if self.settings.schedule == "cosine":
            state.scheduler.step()

    def _sum_gradients(self) -> None:
        """Sum the gradients over the processes."""
        parameters = [p for p in parameters_of(self.network) if p.requires_grad]
        sums = self.group.sum_all([p.grad for p in parameters], parameters)
        for p, gradient in zip(parameters, sums, strict=True):
            p.grad = gradient

    def measure(self, means: StepMeans) -> Row:
        """Return the learning rate, and the means of the loss and its terms.

        Raises:
            DivergedError: the loss is NaN or infinite.
        """
        state, rate = self.state, self.state.optimizer.param_groups[0]["lr"]
        row = means.values(("loss", *self.settings.loss.names), self.group)
        if not math.isfinite(row["loss"] or 0.0):
            first = state.history[-1]["step"] + 1 if state.history else 1
            raise DivergedError(
                f"the loss was {row['loss']} between steps {first} and {state.step} "
                f"(epoch {state.epoch + 1}); the model has the best weights from before. Give a smaller learning_rate "
                f"than {rate:.3g}, or look for extreme values in the images"
            )
        return {"learning_rate": rate, **row}

    def validate(self) -> Row:
        """Return the validation loss and the metric."""
        if self.validation is None:
            return {}
        loss, value = validate(
            self.network,
            self.validation,
            self.source,
            loss=self.settings.loss,
            metric=self.metric,
            batch_size=self.settings.batch_size,
        )
        return {"validation_loss": loss, self.metric.name: value}

    def compare(self, row: Row, best: Row | None, since_best: int) -> tuple[bool, int] | None:
        """Compare by the metric; ties go to the lower validation loss."""
        if self.validation is None:
            return None
        if best is None:
            return True, 0
        value, than = row[self.metric.name], best[self.metric.name]
        if self.metric.is_better(value, than):
            return True, 0
        tied = value == than or (math.isnan(value) and math.isnan(than))
        lower = tied and row["validation_loss"] < best["validation_loss"]
        return lower, 1 if lower else since_best + 1

    def has_reached_goal(self, row: Row) -> bool:
        """Return whether the metric has reached ``stop_at``."""
        goal = self.settings.stop_at
        return goal is not None and self.metric.has_reached(row[self.metric.name], goal)

    def end_epoch(self, row: Row, steps: int) -> None:
        """Let a plateau lower the learning rate, and stop when it is low enough."""
        if self.settings.schedule != "plateau" or self.state.stopped:
            return
        self.state.scheduler.step(row.get("validation_loss", row["loss"]))
        if all(group["lr"] <= LEAST_RATE for group in self.state.optimizer.param_groups):
            self.state.stopped = "plateau"
