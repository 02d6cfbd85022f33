"""The trainer: any classifier and any loader in, a classifier that looks where the evidence is and a masker out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from xai_align._tools.options import with_changes
from xai_align.align.align_fit import AlignFit
from xai_align.align.options import AlignOptions
from xai_align.align.recipe_by_name import recipe as recipe_by_name
from xai_align.align.recipe_record import Recipe
from xai_align.align.training.bench import Bench
from xai_align.align.training.fitting import fit
from xai_align.align.training.phases import Plan
from xai_align.align.training.settings import (
    AlignSettings,
)
from xai_align.align.training.steps import needs_guide
from xai_align.features.resolve_layer import Layer
from xai_align.hookspecs import FeatureSpace


class AlignTrainer:
    """Trains a classifier and a masker together, in place: ALIGN, from its published description.

    The masker learns to keep what the classifier needs and to drop the rest; the classifier learns its labels, and
    that its Grad-CAM lies where the mask is. First the classifier may train alone (warm-up), then the masker alone,
    then both take turns. Other training recipes train the same classifier for comparison.

    The weights of both networks change and nothing else does: train and eval mode, ``requires_grad``, ``.grad``, hooks,
    device, random states and the loaders' generators are as before, also after an exception. A classifier in eval
    mode is trained in train mode; if only some of its modules are in eval mode, these stay so (frozen BatchNorm).

    What is promised of repetition: on a CPU, with as many threads and the same arguments, two fits are equal to the
    last bit, and so is one that was stopped and resumed, at the ends of epochs: an epoch that was interrupted is begun
    again. Before each epoch the loader's random states (torch's, numpy's, Python's, its own generator, a sampler's
    ``set_epoch``) are set by seed and epoch, and they are kept apart from what the networks draw. Loaders with other
    hidden state, and persistent workers, are their owner's to make repeatable.

    Several processes (``accelerate launch``, ``torchrun``) share each of the loader's batches, so that they train to
    what one process does; give all of them the same loader. Batch statistics are those of a process's own part.

    Args:
        classifier: images ``[N, C, H, W]`` to logits ``[N, K]``. Of a compiled or data-parallel one the network
            inside is trained, which shares its weights.
        masker: images to masks ``[N, 1, H, W]`` in [0, 1]; None: a :class:`~xai_align.align.masker.Masker`.
        target_layer: where the CAM is taken; None: found, see :func:`~xai_align.align.look.cam_space`.
        recipe: a :class:`~xai_align.align.recipe_record.Recipe`, or the name of a training recipe (see ``xai-align
            methods``).
        warmup_epochs: how long the classifier trains alone, on what needs no mask (of recipes that look at masks; the
            others have nothing to warm up for).
        masker_only_epochs: how long the masker trains alone after that.
        learning_rate: of the classifier's AdamW.
        masker_learning_rate: of the masker's Adam.
        seed: of everything random.
        out: folder for checkpoints, ``metrics.csv``, ``metrics.jsonl``, figures, and TensorBoard's events if it
            is installed.
        show_progress: show a progress bar.
        options: everything else; None: the defaults of :class:`~xai_align.align.AlignOptions`.
        **changed: single fields of the options, e.g. ``schedule="cosine"``.

    Attributes:
        classifier: as it was given.
        masker: None until the first batch, if none was given, and where the recipe trains none.
        space: where the CAM is taken; None until the first batch.
        recipe: what is learnt.
        settings: the other options.

    Raises:
        TypeError, ValueError: an option is not possible.

    Warns:
        CollapseWarning: the masks have become the same everywhere.
        ShortcutWarning: signs that the classifier uses what it should not.

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
        chosen = with_changes(options, AlignOptions, changed, "AlignTrainer")
        self.settings = AlignSettings(
            order=chosen.order,
            normalise=chosen.normalise,
            plan=Plan(
                warmup_epochs=warmup_epochs,
                warmup_steps=chosen.warmup_steps,
                masker_only_epochs=masker_only_epochs,
                masker_only_steps=chosen.masker_only_steps,
                alternation=chosen.alternation,
                masker_every=chosen.masker_every,
                masker_epochs=chosen.masker_epochs,
                classifier_epochs=chosen.classifier_epochs,
                with_masker=self.recipe.trains_masker,
                with_guide=any(map(needs_guide, self.recipe.terms)),
            ),
            learning_rate=learning_rate,
            masker_learning_rate=masker_learning_rate,
            weight_decay=chosen.weight_decay,
            schedule=chosen.schedule,
            classifier_optimizer=chosen.classifier_optimizer,
            masker_optimizer=chosen.masker_optimizer,
            gradient_clip=chosen.gradient_clip,
            freeze_batch_norm=chosen.freeze_batch_norm,
            on_collapse=chosen.on_collapse,
            keep=chosen.keep,
            patience=chosen.patience,
            seed=seed,
            mixed_precision=chosen.mixed_precision,
            passes=chosen.gradient_accumulation_steps,
            resume=chosen.resume,
            figure_every=chosen.figure_every,
        )
        self.out = None if out is None else Path(out)
        if self.out is None and chosen.resume == "must":
            raise ValueError("there is no folder to resume from; give out=...")
        self.read_batch, self.log, self.show_progress = chosen.read_batch, chosen.log, show_progress
        self.normalization = chosen.normalization
        self.bench = Bench(classifier, masker, target_layer, self.recipe, self.settings)

    @property
    def classifier(self) -> nn.Module:
        """As it was given."""
        return self.bench.classifier

    @property
    def masker(self) -> nn.Module | None:
        """None until the first batch, if none was given, and where the recipe trains none."""
        return self.bench.masker

    @property
    def space(self) -> FeatureSpace | None:
        """Where the CAM is taken; None until the first batch."""
        return self.bench.space

    def fit(self, train: Any, validation: Any = None, *, epochs: int) -> AlignFit:
        """Train.

        With ``out``, a fit that is called again goes on from the end of its last whole epoch, as if it had never
        stopped. So does a second call on the same trainer, or one after :meth:`resume`. If training is interrupted by
        an exception, both networks have the best weights so far, or, as long as there are none, the last.

        Args:
            train: a DataLoader, or anything that can be gone through again and again; it yields ``(images, labels)``,
                ``(images, labels, masks)`` or :class:`~xai_align.align.views.batch.TrainingBatch`, or what
                ``read_batch`` turns into one of these. Images are float ``[N, C, H, W]``, preprocessed; labels int
                ``[N]``; masks ``[N, 1, H, W]`` in [0, 1], NaN where nothing is known.
            validation: the same, from the domain that is trained on: what is kept must not be chosen on another one.
                None: nothing is measured, and the last weights are kept.
            epochs: in all, those before a resumption included.

        Returns:
            An :class:`~xai_align.align.align_fit.AlignFit`.

        Raises:
            TypeError, ValueError: data, networks or a checkpoint don't fit; the message says what to do.
            DivergedError: a loss or gradient is NaN or infinite. The weights are those before that batch, and the last
                checkpoint can be resumed.
        """
        return fit(self, train, validation, epochs)

    def masker_step(self, batch: Any) -> dict[str, float]:
        """One step of the masker, for a loop of one's own; the classifier stays as it is.

        Args:
            batch: as a loader yields it.

        Returns:
            The loss, its terms, and what kind of masks there were.
        """
        return self.bench.own_step(batch, self.read_batch, who="masker")

    def classifier_step(self, batch: Any) -> dict[str, float]:
        """One step of the classifier, on all terms, for a loop of one's own; the masker stays as it is."""
        return self.bench.own_step(batch, self.read_batch, who="classifier")

    def state_dict(self) -> dict[str, Any]:
        """All that training goes on from: ``{"tensors": {name: tensor}, "numbers": {...}}``, in plain types."""
        snapshot = self.bench.snapshot()
        return {"tensors": dict(snapshot.tensors), "numbers": dict(snapshot.numbers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what :meth:`state_dict` gave.

        Raises:
            ValueError: it is of a trainer with other networks or options; the message says which.
        """
        self.bench.load(state["tensors"], state["numbers"], "the state")

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint (safetensors; nothing in it is ever unpickled).

        Args:
            path: a file ``*.safetensors``, or a folder.

        Returns:
            The file.
        """
        return self.bench.save(Path(path))

    def resume(self, path: str | Path) -> None:
        """Go back to a checkpoint, so that :meth:`fit` goes on from there.

        Args:
            path: a checkpoint, a folder of them, or the folder that a fit wrote into.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of a trainer with other networks or options.
        """
        self.bench.resume(Path(path))

    def __repr__(self) -> str:
        known = self.bench.state
        done = "not begun" if known is None else f"epoch {known.epoch}, {known.place.phase}"
        return f"AlignTrainer({type(self.classifier).__name__}, recipe='{self.recipe.name}', {done})"
