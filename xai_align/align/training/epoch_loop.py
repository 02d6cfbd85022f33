"""Epochs of an ALIGN fit: turns, steps, validation, and rows of the log."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch

from xai_align._tools.callers_level import callers_level
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.training.batch_validation import BatchValidator
from xai_align.align.training.collapse import CollapseWarning, collapse_message, collapsed, dead_message
from xai_align.align.training.fit_state import FitState
from xai_align.align.training.micro_batches import joined
from xai_align.align.training.phases import after_epoch, after_step, turn_at
from xai_align.align.training.seeded_loader import SeededLoader
from xai_align.align.training.step_means import StepMeans
from xai_align.align.training.steps import StepContext, Steps
from xai_align.align.training.validation import validate
from xai_align.training.training_log import Row

#: Statistics of masks while the masker trains, and of both networks' gradients.
MASKS = ("p_keep", "p_drop", "mask_mean", "mask_std", "mask_high", "mask_low")

#: Flat masks whose spread grows by this factor from epoch to epoch are still at the start of training.
LEARNING = 1.1


@dataclass(kw_only=True)
class EpochLoop:
    """Loop over the epochs of a fit.

    Attributes:
        steps: makes the training steps.
        state: state of the fit.
        train, validation: the data.
        read, read_validation: convert them to batches.
        classes: number of classes K.
        epochs: number of epochs of the whole fit.
        log: called with every new row of the log.
        advance: called after every step with the number of epochs done, including a fraction.
    """

    steps: Steps
    state: FitState
    train: SeededLoader
    validation: SeededLoader | None
    read: BatchValidator
    read_validation: BatchValidator | None
    classes: int
    epochs: int
    log: Callable[[Row], None]
    advance: Callable[[float, Row | None], None]
    _seen: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._seen = torch.zeros(self.classes, dtype=torch.int64)

    def run_epoch(self) -> None:
        """Run one more epoch; ``state.stopped`` is set if it was the last.

        Raises:
            DivergedError: a loss or a gradient was NaN or infinite.
            ValueError: the loader is empty, or all labels are the same class.
        """
        state, means, number = self.state, StepMeans(self.steps.device), self.state.epoch + 1
        began, before = time.monotonic(), state.seconds
        state.within_epoch = True
        count, phase, alternated = self._train(number, means)
        self._check_labels(number)
        row = self._row(number, phase, means)
        self._judge_masks(row)
        self._judge_cams(row)
        if self.validation is not None:
            row |= self._validated()
        # no error of the caller's can occur from here on, so an epoch is counted as a whole or not at all
        self._judge(row, alternated)
        state.epoch, state.steps_in_epoch, state.within_epoch = number, count, False
        state.position = after_epoch(self.steps.settings.plan, state.position)
        state.seconds = before + time.monotonic() - began
        row["seconds"] = round(state.seconds, 3)
        state.history.append(row)
        self.log(row)
        self.advance(number, row)

    def _train(self, number: int, means: StepMeans) -> tuple[int, str, bool]:
        """Make the steps of an epoch; return their number, the last one's phase, and whether both networks trained."""
        state, expected = self.state, self._expected_steps()
        phase, alternated, last, count = state.position.phase, False, state.history[-1] if state.history else None, 0
        for count, step in enumerate(self._steps_of_epoch(), 1):
            phase = state.position.phase
            alternated |= phase == "together"
            share = min((count - 1) / expected, 1.0) if expected else 0.0
            words = f"epoch {number}, batch {count}"
            self._make(step, StepContext(state.step, min((state.epoch + share) / self.epochs, 1.0), words), means)
            self.advance(state.epoch + (min(count / expected, 1.0) if expected else 0.0), last)
        return count, phase, alternated

    def _expected_steps(self) -> int:
        batches = len(self.train)
        return math.ceil(batches / self.steps.settings.passes) if batches else self.state.steps_in_epoch

    def _steps_of_epoch(self) -> Iterator[TrainingBatch]:
        """Yield the examples of each step: one batch, or several for gradient accumulation."""
        batches = map(self.read, self.train.epoch(self.state.epoch))
        while some := list(islice(batches, self.steps.settings.passes)):
            for batch in some:
                self._seen += torch.bincount(batch.labels.cpu(), minlength=self.classes)
            yield joined(some)

    def _make(self, step: TrainingBatch, context: StepContext, means: StepMeans) -> None:
        """Make the step of the network, or networks, whose turn it is."""
        state, plan = self.state, self.steps.settings.plan
        turn = turn_at(plan, state.position)
        micro_batches = self.steps.micro_batches(step)
        if turn.masker:
            self.steps.masker_step(micro_batches, context, means=means)
        if turn.classifier:
            self.steps.classifier_step(micro_batches, context, with_masks=turn.with_masks, means=means)
        state.step += 1
        state.position = after_step(plan, state.position)

    def _row(self, number: int, phase: str, means: StepMeans) -> Row:
        steps, recipe = self.steps, self.steps.recipe
        terms = tuple(term.name for term in recipe.terms)
        added = tuple(term.name for term, _ in steps.response.weighted_terms(recipe.masker_terms))
        masks = ("masker_loss", *added, *MASKS, "masker_gradient_norm") if added else ()
        values = means.values(("loss", *terms, "dead_cams", "gradient_norm", *masks), steps.group)
        row: Row = {
            "epoch": number,
            "step": self.state.step,
            "seconds": 0.0,
            "phase": phase if steps.masker is not None else "classifier",
            "learning_rate": steps.updaters["classifier"].learning_rate,
        }
        row |= values
        for term in (*recipe.terms, *recipe.masker_terms):
            report = getattr(term, "report", None)
            if callable(report):
                row |= steps.group.mean_of(report())
        return row

    def _check_labels(self, number: int) -> None:
        """Raise if all labels of the epoch were the same class; the epoch is then not counted."""
        there = self._seen.nonzero().flatten().tolist()
        if len(there) == 1:
            raise ValueError(
                f"all {int(self._seen.sum())} labels of the training data are {there[0]}: with one class there is "
                "nothing to log apart, and nothing to align. Give examples of two classes or more"
            )
        absent = [number for number in range(self.classes) if number not in there]
        if absent and number == 1:
            some = ", ".join(map(str, absent[:5])) + (" …" if len(absent) > 5 else "")
            self.state.notes.append(f"{len(absent)} of {self.classes} classes have no training example (class {some})")

    def _judge_masks(self, row: Row) -> None:
        """Warn and start the response if masks have collapsed. Flat masks with a growing spread are still learning."""
        mean, std = row.get("mask_mean"), row.get("mask_std")
        if mean is None or std is None:
            return
        state, response = self.state, self.steps.response
        before = next((known for row in reversed(state.history) if (known := row.get("mask_std")) is not None), None)
        kind = collapsed(mean, std)
        if kind == "flat" and (before is None or std > LEARNING * before):
            kind = None
        response.update(kind, mean)
        if kind is None:
            return
        self._warn(collapse_message(kind, epoch=row["epoch"], mean=mean, std=std, description=response.description))

    def _judge_cams(self, row: Row) -> None:
        """Warn if too many CAMs are zero everywhere."""
        message = dead_message(row.get("dead_cams") or 0.0, epoch=row["epoch"])
        if message:
            self._warn(message)

    def _warn(self, message: str) -> None:
        self.state.notes.append(message)
        if self.steps.group.rank == 0:
            warnings.warn(message, CollapseWarning, stacklevel=callers_level())

    def _validated(self) -> dict[str, float]:
        assert self.validation is not None
        assert self.read_validation is not None
        return validate(
            self.steps.classifier,
            map(self.read_validation, self.validation.epoch(self.state.epoch)),
            classes=self.classes,
            modes=self.steps.modes["classifier"],
            group=self.steps.group,
            device=self.steps.device,
            precision=self.steps.settings.mixed_precision,
        )

    def _judge(self, row: Row, alternated: bool) -> None:
        """Update the best weights, and decide whether to stop.

        Only epochs in which both networks trained can be the best, since before them either the masker is not trained
        or the classifier is not aligned. Ties go to the lower loss, then to the later epoch.
        """
        state, settings = self.state, self.steps.settings
        row["best"] = False
        if self.validation is None or not alternated:
            return
        value, best = row["accuracy"], state.best
        better = best is None or value > best["accuracy"]
        level = best is not None and value == best["accuracy"] and row["validation_loss"] <= best["validation_loss"]
        since = state.since_best + 1
        if better or level:
            row["best"] = True
            state.remember_as_best(row)
        state.since_best = 0 if better else since
        if settings.patience is not None and state.since_best >= settings.patience:
            state.stopped = "patience"
