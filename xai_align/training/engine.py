"""Training engine: epochs of steps, validation, log, best weights and stopping, the same for every training program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from xai_align._tools.model_state import parameters_of
from xai_align.training.fit_state import FitState
from xai_align.training.process_group import ProcessGroup
from xai_align.training.step_means import StepMeans
from xai_align.training.training_log import Row


@dataclass(frozen=True)
class StepContext:
    """Position of an optimiser step in its fit.

    Attributes:
        number: number of the step, from 0.
        progress: the share of the fit that is done, 0 to 1.
        text: text for messages, e.g. "epoch 3, batch 17".
    """

    number: int
    progress: float
    text: str


class Program(ABC):
    """Steps and validation of one training method, which :func:`run_epochs` runs."""

    #: The network that is trained and validated, and the processes that share the work.
    network: nn.Module
    group: ProcessGroup

    @abstractmethod
    def steps_in_epoch(self) -> int:
        """Return the expected number of steps in an epoch; 0 if unknown."""

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[Any]:
        """Set the random seeds of an epoch (from 0) and yield the batch of each of its steps."""

    @abstractmethod
    def step(self, batch: Any, context: StepContext, means: StepMeans) -> None:
        """Make one optimiser step of the network, or of each network, and add its losses to the means."""

    @abstractmethod
    def measure(self, means: StepMeans) -> Row:
        """Return the columns of the log for the steps since the last row, or raise if training has diverged."""

    @abstractmethod
    def validate(self) -> Row:
        """Return the columns of the log from validation; none without validation data."""

    @abstractmethod
    def compare(self, row: Row, best: Row | None, since_best: int) -> tuple[bool, int] | None:
        """Return whether a row is the best so far, and the new number of validations without improvement.

        None: the row can't be compared.
        """

    def has_reached_goal(self, row: Row) -> bool:
        """Return whether the fit may stop, because a validation is good enough."""
        return False

    def after_epoch(self, epoch: int) -> None:  # noqa: B027
        """Do what is due after the checkpoint of an epoch, such as figures."""

    def end_epoch(self, row: Row, steps: int) -> None:  # noqa: B027
        """Update schedules at the end of a complete epoch; its row isn't in the history yet."""


def run_epochs(
    program: Program,
    state: FitState,
    *,
    epochs: int,
    patience: int | None = None,
    validate_every: int | None = None,
    log: Callable[[Row], None],
    show: Callable[[float, Row | None], None],
    save: Callable[[], None],
) -> None:
    """Run the remaining epochs of a fit; ``state.stopped`` says why it ended before the last.

    Args:
        program: makes the steps and the validation.
        state: state of the fit.
        epochs: number of epochs of the whole fit.
        patience: stop after this many validations without improvement.
        validate_every: number of steps between validations within an epoch, in addition to its end.
        log: called with each new row of the log.
        show: called after each step with the number of epochs done, including a fraction, and the last row.
        save: called after each epoch, to write a checkpoint.

    Raises:
        DivergedError: a loss or gradient is NaN or infinite.
    """

    device = parameters_of(program.network)[0].device
    while state.epoch < epochs and not state.stopped:
        number, expected = state.epoch + 1, program.steps_in_epoch()
        means, count = StepMeans(device), 0
        state.begin_epoch()
        for count, batch in enumerate(program.batches(state.epoch), 1):
            progress = min((state.epoch + _share(count - 1, expected)) / epochs, 1.0)
            program.step(batch, StepContext(state.step, progress, f"epoch {number}, batch {count}"), means)
            state.step += 1
            show(state.epoch + _share(count, expected), state.history[-1] if state.history else None)
            if validate_every and count % validate_every == 0 and count < expected:
                _record(state, _row(program, state, means, patience), log)
                means = StepMeans(device)
                if state.stopped:
                    break
        # an epoch is counted as a whole, with its row, or not at all
        row = None if state.stopped else _row(program, state, means, patience)
        state.epoch, state.within_epoch = number, False
        if row is not None:
            program.end_epoch(row, count)
            _record(state, row, log)
            show(number, row)
        save()
        program.after_epoch(number)


def _row(program: Program, state: FitState, means: StepMeans, patience: int | None) -> Row:
    """Return the row of the log for the steps since the last one, after updating the best weights and ``stopped``."""
    row: Row = {"epoch": state.epoch + 1, "step": state.step, "seconds": 0.0}
    row |= program.measure(means)
    program.group.broadcast_buffers(program.network)
    row |= program.validate()
    compared = program.compare(row, state.best, state.since_best)
    if compared is not None:
        row["best"], state.since_best = compared
        if row["best"]:
            state.remember_as_best(row)
        if program.has_reached_goal(row):
            state.stopped = "stop_at"
        elif patience is not None and state.since_best >= patience:
            state.stopped = "patience"
    return row


def _record(state: FitState, row: Row, log: Callable[[Row], None]) -> None:
    row["seconds"] = round(state.update_seconds(), 3)
    state.history.append(row)
    log(row)


def _share(steps: int, expected: int) -> float:
    """Return the share of an epoch's steps; 0 if their number is unknown."""
    return min(steps / expected, 1.0) if expected else 0.0
