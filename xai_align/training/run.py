"""One run of a fit: begin or resume, run the epochs, and keep checkpoints, log and the best weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from xai_align._tools.files.folder_lock import locked_folder
from xai_align.training.checkpoints import Checkpoints, Snapshot
from xai_align.training.choices import Resume
from xai_align.training.engine import Program, run_epochs
from xai_align.training.fit_state import FitState
from xai_align.training.options import TrainingOptions
from xai_align.training.process_group import ProcessGroup
from xai_align.training.progress import fit_progress
from xai_align.training.training_log import TrainingLog

_log = logging.getLogger(__name__)


def run_folder(out: str | Path | None, resume: Resume) -> Path | None:
    """Return the folder of a run; None: nothing is written.

    Raises:
        TypeError: it is not a path.
        ValueError: there is none to resume from.
    """
    if not isinstance(out, str | os.PathLike | None):
        raise TypeError(f"out is the path of a folder or None, got {type(out).__name__} {out!r}")
    if out is None and resume == "must":
        raise ValueError("there is no folder to resume from; give out=...")
    return None if out is None else Path(out)


def run_fit(
    program: Program,
    state: FitState,
    options: TrainingOptions,
    *,
    epochs: int,
    checkpoints: Checkpoints | None,
    shown: Mapping[str, str] | None = None,
    validate_every: int | None = None,
) -> list[str]:
    """Run a fit to its end; afterwards, or after an exception, the networks have the weights that ``keep`` selects.

    Args:
        program: makes the steps and the validation.
        state: state of the fit.
        options: the options.
        epochs: number of epochs of the whole fit.
        checkpoints: the checkpoints, in a folder of the run's folder; None: nothing is written.
        shown: columns of the log that a progress bar shows, with their short names; None: no bar.
        validate_every: number of steps between validations within an epoch, in addition to its end.

    Returns:
        Notes on a resumption.
    """
    folder, group = None if checkpoints is None else checkpoints.folder.parent, program.group

    def save() -> None:
        if checkpoints is not None:
            group.broadcast_buffers(program.network)
            if group.is_main:
                checkpoints.write(state.epoch, state.snapshot())
            group.wait()

    with ExitStack() as stack:
        stack.enter_context(locked_folder(folder if group.is_main else None, "fit"))
        notes = _begin(state, checkpoints, resume=options.resume, epochs=epochs, group=group, save=save)
        log = stack.enter_context(TrainingLog(folder if group.is_main else None, options.log))
        log.begin(state.history)
        if options.keep == "best":
            stack.callback(state.take_best_weights)
        bar = fit_progress("training", epochs, shown or {}, shown=shown is not None and group.is_main)
        run_epochs(
            program,
            state,
            epochs=epochs,
            patience=options.patience,
            validate_every=validate_every,
            log=log.add,
            show=stack.enter_context(bar),
            save=save,
        )
    return notes


def _begin(
    state: FitState,
    checkpoints: Checkpoints | None,
    *,
    resume: Resume,
    epochs: int,
    group: ProcessGroup,
    save: Callable[[], None],
) -> list[str]:
    """Resume from the newest checkpoint unless the state is ahead of it, or write the first; return notes.

    Raises:
        ValueError: ``resume`` forbids it, or a checkpoint is invalid.
    """
    state.take_last_weights()
    if checkpoints is None:
        again = f"epoch {state.epoch + 1} was interrupted and is repeated, from the weights that it had changed"
        return [again] if state.within_epoch else []
    if resume == "never" and checkpoints.paths() and not state.epoch:
        raise ValueError(
            f"'{checkpoints.folder}' already holds a run; choose another folder, or resume it with resume='auto'"
        )
    newest = checkpoints.newest()
    group.wait()  # before the first process writes
    if newest is None and resume == "must" and not state.epoch:
        raise ValueError(f"'{checkpoints.folder}' holds no checkpoint to resume from")
    if newest is None or _epoch_of(newest[1]) < state.epoch:
        save()
        return []
    path, snapshot = newest
    state.restore(snapshot, f"'{path}'")
    done = state.epoch
    note = (
        f"resuming from the end of epoch {done} ('{path}'); steps of a later epoch are repeated"
        if not state.stopped and done < epochs
        else f"the run in '{path.parent}' had already finished after epoch {done}; nothing was trained"
    )
    _log.info(note)
    return [note]


def _epoch_of(snapshot: Snapshot) -> int:
    """Return the epoch of a checkpoint; a huge number if it has none, so that reading it is refused."""
    epoch = snapshot.numbers.get("epoch")
    return epoch if isinstance(epoch, int) else 2**53
