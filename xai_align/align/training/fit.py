"""A complete fit, from the first check of the data to the result."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from xai_align._tools.callers_level import callers_level
from xai_align._tools.checks import check_integer
from xai_align._tools.random_state import kept_random_state
from xai_align._tools.thread_state import restores_thread_state
from xai_align.align.align_fit import AlignFit
from xai_align.align.shortcut import FEWEST, ShortcutWarning, find_shortcuts
from xai_align.align.training.collapse import CollapseWarning, idle_message
from xai_align.align.training.fit_state import AlignFitState
from xai_align.align.training.program import AlignProgram
from xai_align.align.training.seeded_loader import SeededLoader, preserved_loader_state
from xai_align.align.training.trainer_state import TrainerState
from xai_align.training.checkpoints import Checkpoints
from xai_align.training.preserved_state import preserved_state
from xai_align.training.process_group import ProcessGroup
from xai_align.training.run import run_fit
from xai_align.training.training_log import Row

#: Number of examples for the search for shortcuts.
SHORTCUT_EXAMPLES = 512
#: Columns of the log in the progress bar, with their short names.
SHOWN = {"loss": "loss", "accuracy": "accuracy", "mask_mean": "mask", "distinction": "dist"}


@restores_thread_state
def fit(trainer: TrainerState, train: Any, validation: Any, epochs: int) -> AlignFit:
    """Run a fit; see :meth:`~xai_align.align.trainer.AlignTrainer.fit`."""
    settings = trainer.settings
    check_integer("epochs", epochs)
    if settings.patience is not None and validation is None:
        raise ValueError("patience needs validation data; give validation=...")
    training = SeededLoader(train, settings.seed, "the training data")
    validating = None if validation is None else SeededLoader(validation, settings.seed, "the validation data")
    loaders = [training] if validating is None else [training, validating]
    networks = [network for network in (trainer.network, trainer.masker) if network is not None]
    with preserved_state(*networks), preserved_loader_state(*(loader.loader for loader in loaders)):
        group = ProcessGroup.launched()
        for network in networks:
            network.to(group.device or trainer.device)
        firsts = [next(loader.epoch(0)) for loader in loaders]
        trainer.check_first_batch(firsts[0], training.name)
        examples = [trainer.validator(one.name)(first) for one, first in zip(loaders, firsts, strict=True)][-1]
        state = trainer.assemble()
        notes = run_fit(
            AlignProgram(trainer, training, validating, group, examples, epochs),
            state,
            settings,
            epochs=epochs,
            checkpoints=_checkpoints(trainer, loaders, epochs, group),
            shown=SHOWN if settings.show_progress else None,
        )
        if settings.out is not None:
            notes += [loader.caveat for loader in loaders if loader.caveat]
        if settings.keep == "best" and validation is not None and state.best is None:
            notes.append("both networks trained in no epoch, so there is no best one; the last weights were kept")
        notes += [
            *state.notes,
            *_idle_masks(state, group, baseline=trainer.recipe.baseline),
            *_shortcuts(trainer, loaders[-1], group),
        ]
    if trainer.made_masker and trainer.masker is not None:
        trainer.masker.to(trainer.device)
    return AlignFit(
        classifier=trainer.classifier,
        masker=trainer.masker,
        notes=(*trainer.own_notes, *notes),
        out=settings.out,
        **state.result(),
    )


def _checkpoints(
    trainer: TrainerState, loaders: list[SeededLoader], epochs: int, group: ProcessGroup
) -> Checkpoints | None:
    """Return the fit's checkpoints, or None. The number of epochs matters only if the learning rate depends on it."""
    settings = trainer.settings
    if settings.out is None:
        return None
    config = trainer.configuration(
        epochs=epochs if settings.schedule != "none" else None,
        batches=len(loaders[0]) or None,
        validated=len(loaders) > 1,
        processes=group.count,
        **trainer.fitted_to,
    )
    return Checkpoints(settings.out / "checkpoints", config)


def _idle_masks(state: AlignFitState, group: ProcessGroup, *, baseline: object) -> list[str]:
    """Return a note if the masks are uninformative at the end."""
    last: Row = next((row for row in reversed(state.history) if row.get("p_keep") is not None), {})
    message = idle_message(last.get("p_keep"), last.get("p_drop"), baseline=baseline)
    if message is None:
        return []
    if group.is_main:
        warnings.warn(message, CollapseWarning, stacklevel=callers_level())
    return [message]


def _shortcuts(trainer: TrainerState, loader: SeededLoader, group: ProcessGroup) -> list[str]:
    """Return the signs of a shortcut as notes."""
    if trainer.masker is None or not group.is_main:
        return []
    with kept_random_state(), preserved_loader_state(loader.loader):
        found = find_shortcuts(
            trainer.network,
            trainer.masker,
            _images_and_labels(trainer, loader),
            examples=SHORTCUT_EXAMPLES,
            seed=trainer.settings.seed,
        )
    if not found.signs or found.measures["examples"] < FEWEST:
        return []
    warnings.warn(str(found), ShortcutWarning, stacklevel=callers_level())
    return list(found.signs)


def _images_and_labels(trainer: TrainerState, loader: SeededLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches from all over the data, which may be sorted by class."""
    read = trainer.validator(loader.name)
    every = 1
    for number, raw in enumerate(loader.epoch(0)):
        if number == 0:
            every = max(len(loader) * len(read(raw)) // SHORTCUT_EXAMPLES, 1)
        if number % every == 0:
            batch = read(raw)
            yield batch.images, batch.labels
