"""A complete fit, from the first check of the data to the result."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from xai_align._tools.callers_level import callers_level
from xai_align._tools.random_state import kept_random_state
from xai_align.align.align_fit import AlignFit
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.shortcut import FEWEST, ShortcutWarning, find_shortcuts
from xai_align.align.training.collapse import CollapseWarning, idle_message
from xai_align.align.training.epoch_loop import EpochLoop
from xai_align.align.training.figures import Figures
from xai_align.align.training.fit_state import FitState
from xai_align.align.training.fitted import Fitted
from xai_align.align.training.micro_batches import ProcessGroup
from xai_align.align.training.progress import progress_bar
from xai_align.align.training.seeded_loader import SeededLoader, preserved_loader_state
from xai_align.training.checkpoints import Checkpoints, Snapshot
from xai_align.training.preserved_state import accelerator_for, preserved_except_weights, trained_parameters
from xai_align.training.training_log import Row, TrainingLog

_log = logging.getLogger(__name__)
#: Number of examples for the search for shortcuts.
LOOKED_AT = 512


def fit(trainer: Fitted, train: Any, validation: Any, epochs: int) -> AlignFit:
    """Run a fit; see :meth:`~xai_align.align.trainer.AlignTrainer.fit`."""
    bench, settings = trainer.bench, trainer.settings
    loaders = _loaders(trainer, train, validation, epochs)
    with ExitStack() as stack:
        group = _preserve_state(stack, trainer, loaders)
        examples = _check_first_batches(trainer, loaders)
        state = bench.assemble()
        checkpoints = _checkpoints(trainer, loaders, epochs, group)
        notes = [*_begin(trainer, state, checkpoints, epochs, group), *_caveats(trainer, loaders)]
        is_main = group.rank == 0
        log = TrainingLog(trainer.out if is_main else None, trainer.log)
        stack.callback(log.close)
        log.begin(state.history)
        if settings.keep == "best":
            stack.callback(state.take_best_weights)
        advance = stack.enter_context(progress_bar(epochs, trainer.show_progress and is_main))
        readers = [bench.reader(trainer.read_batch, loader.name) for loader in loaders]
        loop = EpochLoop(
            steps=bench.steps(group),
            state=state,
            train=loaders[0],
            validation=None if validation is None else loaders[1],
            read=readers[0],
            read_validation=None if validation is None else readers[1],
            classes=bench.classes or 0,
            epochs=epochs,
            log=log.add,
            advance=advance,
        )
        figures = Figures(trainer, examples) if is_main else None
        while state.epoch < epochs and not state.stopped:
            loop.run_epoch()
            _keep(trainer, state, checkpoints, group)
            if figures is not None:
                figures.after(state.epoch)
        if settings.keep == "best":
            if validation is not None and state.best is None:
                notes.append("no epoch had both networks in turn, so there is no best one; the last weights were kept")
            state.take_best_weights()
        notes += [*state.notes, *_idle_masks(state, group), *_shortcuts(trainer, loaders[-1], group)]
    if bench.made_masker and trainer.masker is not None:
        trainer.masker.to(bench.device)
    return AlignFit(
        classifier=trainer.classifier,
        masker=trainer.masker,
        best=state.best,
        history=list(state.history),
        epochs=state.epoch,
        steps=state.step,
        stopped=state.stopped or "epochs",
        seconds=state.seconds,
        notes=(*bench.own_notes, *notes),
        out=trainer.out,
    )


def _loaders(trainer: Fitted, train: Any, validation: Any, epochs: int) -> list[SeededLoader]:
    """Return loaders of the training data and, if there are any, the validation data."""
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs is {epochs!r}; give a whole number of at least 1")
    if trainer.settings.patience is not None and validation is None:
        raise ValueError("patience looks at the validation data, and there are none; give some")
    loaders = [SeededLoader(train, trainer.settings.seed, "the training data")]
    if validation is not None:
        loaders.append(SeededLoader(validation, trainer.settings.seed, "the validation data"))
    return loaders


def _preserve_state(stack: ExitStack, trainer: Fitted, loaders: Sequence[SeededLoader]) -> ProcessGroup:
    """Restore the caller's state when the stack is left; return the processes that share the fit."""
    bench = trainer.bench
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())
    stack.enter_context(kept_random_state())
    stack.enter_context(preserved_loader_state(*(loader.loader for loader in loaders)))
    accelerator = stack.enter_context(accelerator_for(bench.network, trainer.settings.mixed_precision))
    group = ProcessGroup.of(accelerator)
    for network in [bench.network] + ([] if bench.masker is None else [bench.masker]):
        stack.enter_context(preserved_except_weights(network, list(trained_parameters(network).values())))
        network.to(bench.device if group.count == 1 else accelerator.device)
    return group


def _check_first_batches(trainer: Fitted, loaders: Sequence[SeededLoader]) -> TrainingBatch:
    """Check that everything is compatible with the first batches of training and validation data; return the last."""
    firsts = [next(loader.epoch(0)) for loader in loaders]
    trainer.bench.check_first_batch(firsts[0], trainer.read_batch)
    readers = [trainer.bench.reader(trainer.read_batch, loader.name) for loader in loaders]
    return [read(first) for read, first in zip(readers, firsts, strict=True)][-1]


def _checkpoints(
    trainer: Fitted, loaders: Sequence[SeededLoader], epochs: int, group: ProcessGroup
) -> Checkpoints | None:
    """Return the fit's checkpoints, or None. The number of epochs matters only if the learning rate depends on it."""
    if trainer.out is None:
        return None
    config = trainer.bench.configuration(
        epochs=epochs if trainer.settings.schedule != "none" else None,
        batches=len(loaders[0]) or None,
        validated=len(loaders) > 1,
        processes=group.count,
    )
    return Checkpoints(trainer.out / "checkpoints", config)


def _caveats(trainer: Fitted, loaders: Sequence[SeededLoader]) -> list[str]:
    """Return notes on what may differ after a resumption."""
    return [loader.caveat for loader in loaders if loader.caveat and trainer.out is not None]


def _begin(
    trainer: Fitted, state: FitState, checkpoints: Checkpoints | None, epochs: int, group: ProcessGroup
) -> list[str]:
    """Resume from the newest checkpoint unless the trainer is ahead of it, or write the first; return notes."""
    state.take_last_weights()
    if checkpoints is None:
        again = f"epoch {state.epoch + 1} was interrupted and begun again, with weights that it had changed"
        return [again] if state.within_epoch else []
    resume = trainer.settings.resume
    if resume == "never" and checkpoints.paths() and not state.epoch:
        raise ValueError(
            f"'{checkpoints.folder}' holds a run already; choose another folder, or go on with it (resume='auto')"
        )
    there = checkpoints.newest()
    group.wait()  # wait before the first process writes
    if there is None and resume == "must" and not state.epoch:
        raise ValueError(f"'{checkpoints.folder}' holds no checkpoint to go on from")
    if there is None or _epoch_of(there[1]) < state.epoch:
        _keep(trainer, state, checkpoints, group)
        return []
    path, snapshot = there
    state.restore(snapshot, f"'{path}'")
    done = state.epoch
    note = (
        f"going on from the end of epoch {done} ('{path}'); what was done of a later epoch is done again"
        if not state.stopped and done < epochs
        else f"the run in '{path.parent}' was finished after epoch {done}; nothing was left to do"
    )
    _log.info(note)
    return [note]


def _epoch_of(snapshot: Snapshot) -> int:
    """Return the epoch of a checkpoint; a huge number if it has none, so that it is refused when it is read."""
    epoch = snapshot.numbers.get("epoch")
    return epoch if isinstance(epoch, int) else 2**53


def _keep(trainer: Fitted, state: FitState, checkpoints: Checkpoints | None, group: ProcessGroup) -> None:
    """Write a checkpoint, if there is a folder for it."""
    if checkpoints is not None:
        group.same_buffers(trainer.bench.network)
        if group.rank == 0:
            snapshot = trainer.bench.snapshot()
            checkpoints.write(state.epoch, Snapshot(snapshot.tensors, snapshot.numbers))
        group.wait()


def _idle_masks(state: FitState, group: ProcessGroup) -> list[str]:
    """Return a note if the masks are uninformative at the end."""
    last: Row = next((row for row in reversed(state.history) if row.get("p_keep") is not None), {})
    message = idle_message(last.get("p_keep"), last.get("p_drop"))
    if message is None:
        return []
    if group.rank == 0:
        warnings.warn(message, CollapseWarning, stacklevel=callers_level())
    return [message]


def _shortcuts(trainer: Fitted, loader: SeededLoader, group: ProcessGroup) -> list[str]:
    """Return the signs of a shortcut as notes."""
    if trainer.masker is None or group.rank:
        return []
    with kept_random_state(), preserved_loader_state(loader.loader):
        found = find_shortcuts(
            trainer.bench.network,
            trainer.masker,
            _images_and_labels(trainer, loader),
            examples=LOOKED_AT,
            seed=trainer.settings.seed,
        )
    if not found.signs or found.measures["examples"] < FEWEST:
        return []
    warnings.warn(str(found), ShortcutWarning, stacklevel=callers_level())
    return list(found.signs)


def _images_and_labels(trainer: Fitted, loader: SeededLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of about :data:`LOOKED_AT` examples from all over the data, which may be sorted by class."""
    read = trainer.bench.reader(trainer.read_batch, loader.name)
    every = 1
    for number, raw in enumerate(loader.epoch(0)):
        if number == 0:
            every = max(len(loader) * len(read(raw)) // LOOKED_AT, 1)
        if number % every == 0:
            batch = read(raw)
            yield batch.images, batch.labels
