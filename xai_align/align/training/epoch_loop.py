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
from xai_align.align.training.collapse import CollapseWarning, collapse_message, collapsed, dead_message
from xai_align.align.training.fit_state import FitState
from xai_align.align.training.phases import after_epoch, after_step, turn_at
from xai_align.align.training.reading import BatchReader
from xai_align.align.training.share_of_work import joined
from xai_align.align.training.steps import Moment, Steps
from xai_align.align.training.stream import RepeatableStream
from xai_align.align.training.tally import Tally
from xai_align.align.training.validation import validate
from xai_align.align.views.batch import TrainingBatch
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
        tell: called with every new row of the log.
        advance: called after every step with the number of epochs done, including a fraction.
    """

    steps: Steps
    state: FitState
    train: RepeatableStream
    validation: RepeatableStream | None
    read: BatchReader
    read_validation: BatchReader | None
    classes: int
    epochs: int
    tell: Callable[[Row], None]
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
        state, tally, number = self.state, Tally(self.steps.device), self.state.epoch + 1
        began, before = time.monotonic(), state.seconds
        state.in_an_epoch = True
        count, phase, alternated = self._train(number, tally)
        self._check_labels(number)
        row = self._row(number, phase, tally)
        self._judge_masks(row)
        self._judge_cams(row)
        if self.validation is not None:
            row |= self._validated()
        # no error of the caller's can occur from here on, so an epoch is counted as a whole or not at all
        self._judge(row, alternated)
        state.epoch, state.steps_in_epoch, state.in_an_epoch = number, count, False
        state.place = after_epoch(self.steps.settings.plan, state.place)
        state.seconds = before + time.monotonic() - began
        row["seconds"] = round(state.seconds, 3)
        state.history.append(row)
        self.tell(row)
        self.advance(number, row)

    def _train(self, number: int, tally: Tally) -> tuple[int, str, bool]:
        """Make the steps of an epoch; return their number, the last one's phase, and whether both networks trained."""
        state, expected = self.state, self._expected_steps()
        phase, alternated, last, count = state.place.phase, False, state.history[-1] if state.history else None, 0
        for count, step in enumerate(self._steps_of_epoch(), 1):
            phase = state.place.phase
            alternated |= phase == "together"
            share = min((count - 1) / expected, 1.0) if expected else 0.0
            words = f"epoch {number}, batch {count}"
            self._make(step, Moment(state.step, min((state.epoch + share) / self.epochs, 1.0), words), tally)
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

    def _make(self, step: TrainingBatch, moment: Moment, tally: Tally) -> None:
        """Make the step of the network, or networks, whose turn it is."""
        state, plan = self.state, self.steps.settings.plan
        turn = turn_at(plan, state.place)
        pieces = self.steps.pieces(step)
        if turn.masker:
            self.steps.masker_step(pieces, moment, tally=tally)
        if turn.classifier:
            self.steps.classifier_step(pieces, moment, guided=turn.guided, tally=tally)
        state.step += 1
        state.place = after_step(plan, state.place)

    def _row(self, number: int, phase: str, tally: Tally) -> Row:
        steps, recipe = self.steps, self.steps.recipe
        terms = tuple(term.name for term in recipe.terms)
        added = tuple(term.name for term, _ in steps.answer.weighed(recipe.masker_terms))
        masks = ("masker_loss", *added, *MASKS, "masker_gradient_norm") if added else ()
        means = tally.means(("loss", *terms, "dead_cams", "gradient_norm", *masks), steps.crew)
        row: Row = {
            "epoch": number,
            "step": self.state.step,
            "seconds": 0.0,
            "phase": phase if steps.masker is not None else "classifier",
            "learning_rate": steps.updaters["classifier"].learning_rate,
        }
        row |= means
        for term in (*recipe.terms, *recipe.masker_terms):
            report = getattr(term, "report", None)
            if callable(report):
                row |= steps.crew.mean_of(report())
        return row

    def _check_labels(self, number: int) -> None:
        """Raise if all labels of the epoch were the same class; the epoch is then not counted."""
        there = self._seen.nonzero().flatten().tolist()
        if len(there) == 1:
            raise ValueError(
                f"all {int(self._seen.sum())} labels of the training data are {there[0]}: with one class there is "
                "nothing to tell apart, and nothing to align. Give examples of two classes or more"
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
        state, answer = self.state, self.steps.answer
        before = next((known for row in reversed(state.history) if (known := row.get("mask_std")) is not None), None)
        kind = collapsed(mean, std)
        if kind == "flat" and (before is None or std > LEARNING * before):
            kind = None
        answer.hear(kind, mean)
        if kind is None:
            return
        self._warn(collapse_message(kind, epoch=row["epoch"], mean=mean, std=std, promise=answer.promise))

    def _judge_cams(self, row: Row) -> None:
        """Warn if too many CAMs are zero everywhere."""
        message = dead_message(row.get("dead_cams") or 0.0, epoch=row["epoch"])
        if message:
            self._warn(message)

    def _warn(self, message: str) -> None:
        self.state.notes.append(message)
        if self.steps.crew.rank == 0:
            warnings.warn(message, CollapseWarning, stacklevel=callers_level())

    def _validated(self) -> dict[str, float]:
        assert self.validation is not None
        assert self.read_validation is not None
        return validate(
            self.steps.classifier,
            map(self.read_validation, self.validation.epoch(self.state.epoch)),
            classes=self.classes,
            modes=self.steps.modes["classifier"],
            crew=self.steps.crew,
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
