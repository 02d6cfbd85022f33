"""Trainer of ALIGN: takes any classifier and any loader, and trains the classifier together with a masker."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from xai_align._tools.options import with_changes
from xai_align.align.align_fit import AlignFit
from xai_align.align.options import AlignOptions
from xai_align.align.recipe_by_name import recipe as recipe_by_name
from xai_align.align.recipe_record import Recipe
from xai_align.align.training.fit import fit
from xai_align.align.training.settings import AlignSettings
from xai_align.align.training.steps import single_step
from xai_align.align.training.trainer_state import TrainerState
from xai_align.features.resolve_layer import Layer
from xai_align.hookspecs import FeatureSpace
from xai_align.training.run import run_folder


class AlignTrainer:
    """Trainer that fits a classifier and a masker together, in place: ALIGN, from its published description.

    The masker learns to keep the pixels that the classifier needs and to drop the rest; the classifier learns the
    labels, and to align its Grad-CAM with the mask. The classifier can first train alone (warm-up), then the masker
    alone, then both alternate. Other training recipes train the same classifier for comparison.

    Only the weights of both networks change: train and eval mode, ``requires_grad``, ``.grad``, hooks, device, random
    states and the loaders' generators are as before, also after an exception. A classifier in eval mode is trained in
    train mode; if only some of its modules are in eval mode, these stay in it (frozen BatchNorm).

    Reproducibility: on a CPU, with the same arguments and number of threads, two fits are bitwise equal, and so is one
    that was stopped and resumed; an interrupted epoch starts over. Before each epoch the loader's random states
    (torch's, numpy's, Python's, its own generator, a sampler's ``set_epoch``) are set by seed and epoch, separately
    from the networks' random numbers. Loaders with other hidden state, and persistent workers, have to be made
    reproducible by the caller.

    Several processes (``accelerate launch``, ``torchrun``) share each of the loader's batches, so that the result is
    that of one process; give all of them the same loader. Batch statistics are those of each process's own part.

    Args:
        classifier: images ``[N, C, H, W]`` to logits ``[N, K]``. If it is compiled or data-parallel, the network
            inside is trained, which shares its weights.
        masker: images to masks ``[N, 1, H, W]`` in [0, 1]; None: a :class:`~xai_align.align.masker.Masker`.
        target_layer: layer of the CAM; None: found automatically, see :func:`~xai_align.align.captured_pass.cam_space`.
        recipe: a :class:`~xai_align.align.recipe_record.Recipe`, or the name of a training recipe (see ``xai-align
            methods``).
        warmup_epochs: epochs of the classifier alone, on the terms that need no mask (only in recipes with terms that
            need one).
        masker_only_epochs: epochs of the masker alone after that.
        learning_rate: of the classifier's AdamW.
        masker_learning_rate: of the masker's Adam.
        seed: seed of all random numbers.
        out: folder for checkpoints, ``metrics.csv``, ``metrics.jsonl``, figures, and TensorBoard events if it
            is installed.
        show_progress: show a progress bar.
        options: further options; None: the defaults of :class:`~xai_align.align.AlignOptions`.
        **changed: single fields of the options, e.g. ``schedule="cosine"``.

    Attributes:
        classifier: the given classifier.
        masker: the masker; None until the first batch if none was given, and if the recipe trains none.
        space: feature space of the CAM; None until the first batch.
        recipe: the training recipe.
        settings: all options.
        state: the networks with their optimisers, and the state of the fit.

    Raises:
        TypeError, ValueError: an option is invalid.

    Warns:
        CollapseWarning: the masks have become the same everywhere.
        ShortcutWarning: there are signs that the classifier relies on a shortcut.

    Source: Hong et al., "From Attribution to Action", AAAI 2026 (arXiv 2511.06944).

    Example::

        trainer = AlignTrainer(model, warmup_epochs=1, learning_rate=1e-4)
        fit = trainer.fit(loader, validation=loader, epochs=2)
        masks = fit.masker(images)  # [N, 1, H, W], in [0, 1]
    """

    def __init__(
        self,
        classifier: nn.Module,
        masker: nn.Module | None = None,
        target_layer: Layer = None,
        *,
        recipe: str | Recipe = "align",
        warmup_epochs: int = 0,
        masker_only_epochs: int = 0,
        learning_rate: float = 1e-3,
        masker_learning_rate: float = 3e-3,
        seed: int = 0,
        out: str | Path | None = None,
        show_progress: bool = False,
        options: AlignOptions | None = None,
        **changed: Any,
    ) -> None:
        self.recipe = recipe_by_name(recipe) if isinstance(recipe, str) else recipe
        if not isinstance(self.recipe, Recipe):
            raise TypeError(
                f"recipe is a {type(recipe).__name__}; give a xai_align.align.Recipe, or the name of one "
                "(`xai-align methods` lists them)"
            )
        chosen = with_changes(
            options, AlignOptions, changed, "AlignTrainer", also=list(signature(AlignTrainer).parameters)
        )
        self.settings = AlignSettings(
            **vars(chosen),
            warmup_epochs=warmup_epochs,
            masker_only_epochs=masker_only_epochs,
            learning_rate=learning_rate,
            masker_learning_rate=masker_learning_rate,
            seed=seed,
            out=run_folder(out, chosen.resume),
            show_progress=show_progress,
        )
        self.state = TrainerState(classifier, masker, target_layer, self.recipe, self.settings)

    @property
    def classifier(self) -> nn.Module:
        """The given classifier."""
        return self.state.classifier

    @property
    def masker(self) -> nn.Module | None:
        """The masker; None until the first batch if none was given, and if the recipe trains none."""
        return self.state.masker

    @property
    def space(self) -> FeatureSpace | None:
        """Feature space of the CAM; None until the first batch."""
        return self.state.space

    def fit(self, train: Any, validation: Any = None, *, epochs: int) -> AlignFit:
        """Train the classifier, and the masker if the recipe has one.

        With ``out``, calling it again resumes from the end of the last complete epoch, as if training had never
        stopped. So does a second call on the same trainer, or one after :meth:`resume`. If training is interrupted by
        an exception, both networks have the best weights so far, or the last ones if there are none yet.

        Args:
            train: a DataLoader, or another iterable that can be iterated repeatedly; it yields ``(images, labels)``,
                ``(images, labels, masks)`` or :class:`~xai_align.align.TrainingBatch`, or batches that ``read_batch``
                converts to one of these. Images are float ``[N, C, H, W]``, preprocessed; labels int
                ``[N]``; masks ``[N, 1, H, W]`` in [0, 1], NaN where unknown.
            validation: the same, from the training domain: weights must not be selected on another domain. None: no
                validation, and the last weights are kept.
            epochs: total number of epochs, including those before a resumption.

        Returns:
            An :class:`~xai_align.align.align_fit.AlignFit`.

        Raises:
            TypeError, ValueError: data, networks or a checkpoint are invalid; the message says what to do.
            DivergedError: a loss or gradient is NaN or infinite. The weights are those before that batch, and training
                can resume from the last checkpoint.
        """
        return fit(self.state, train, validation, epochs)

    def masker_step(self, batch: Any) -> dict[str, float]:
        """Make one step of the masker, for custom training loops; the classifier is not changed.

        The learning rate is the optimiser's; ``schedule`` has no effect, as the number of steps is not known.

        Args:
            batch: as a loader yields it.

        Returns:
            The loss, its terms, and statistics of the masks.
        """
        return single_step(self.state, batch, name="masker")

    def classifier_step(self, batch: Any) -> dict[str, float]:
        """Make one step of the classifier, on all terms, for custom training loops; see :meth:`masker_step`."""
        return single_step(self.state, batch, name="classifier")

    def state_dict(self) -> dict[str, Any]:
        """Return the state for resuming: ``{"tensors": {name: tensor}, "numbers": {...}}``, in plain types."""
        snapshot = self.state.snapshot()
        return {"tensors": dict(snapshot.tensors), "numbers": dict(snapshot.numbers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from :meth:`state_dict`.

        Raises:
            TypeError: it is none.
            ValueError: it is from a trainer with other networks or options; the message says which.
        """
        if not isinstance(state, Mapping) or not {"tensors", "numbers"} <= state.keys():
            raise TypeError("the state has no 'tensors' and 'numbers'; give what state_dict() of a trainer returned")
        self.state.load(state["tensors"], state["numbers"], "the state")

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint (safetensors; nothing in it is ever unpickled).

        Args:
            path: a file ``*.safetensors``, or a folder.

        Returns:
            The file.
        """
        return self.state.save(Path(path))

    def resume(self, path: str | Path) -> None:
        """Load a checkpoint, so that :meth:`fit` resumes from there.

        Args:
            path: a checkpoint, a folder of them, or the folder that a fit wrote into.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or from a trainer with other networks or options.
        """
        self.state.resume(Path(path))

    def __repr__(self) -> str:
        known = self.state.fit_state
        done = "not begun" if known is None else f"epoch {known.epoch}, {known.position.phase}"
        return f"AlignTrainer({type(self.classifier).__name__}, recipe='{self.recipe.name}', {done})"
