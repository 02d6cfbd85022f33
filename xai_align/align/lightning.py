"""ALIGN's steps inside Lightning, for those whose loop is Lightning's. It needs the package ``lightning``."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule

from xai_align.align.trainer import AlignTrainer


class AlignModule(LightningModule):
    """Masker and classifier take turns on every batch, by manual optimisation: each with the trainer's own optimiser.

    Lightning brings loaders, device, callbacks, logging and checkpoints. What belongs to the whole of a fit is left to
    :meth:`AlignTrainer.fit`: warm-up, the masker's start, answers to collapse, the choice of the best weights,
    several processes. For a warm-up, run a module of ``AlignTrainer(classifier, recipe="dre")`` first.

    Args:
        aligned: the trainer, with a masker if its recipe trains one.

    Raises:
        ValueError: the masker is missing: Lightning has to know it before the first batch.
    """

    def __init__(self, aligned: AlignTrainer) -> None:
        super().__init__()
        if aligned.recipe.trains_masker and aligned.masker is None:
            raise ValueError("give the trainer its masker: AlignTrainer(classifier, Masker(in_channels=3))")
        self.automatic_optimization = False
        self.aligned = aligned
        self.classifier, self.masker = aligned.classifier, aligned.masker  # so that Lightning moves them

    def configure_optimizers(self) -> None:
        """None of Lightning's: both optimisers are the trainer's."""

    def on_fit_start(self) -> None:
        """One process only: gradients of several would not be added up."""
        if self.trainer.world_size > 1:
            raise ValueError("AlignModule runs in one process; AlignTrainer.fit shares batches between several")

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """The masker's step, if there is one, and the classifier's, on the same batch; logs what they say."""
        measured = {} if self.masker is None else self.aligned.masker_step(batch)
        self.log_dict({**measured, **self.aligned.classifier_step(batch)})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The trainer's optimisers and state go along, once there are some."""
        if self.aligned.space is not None:
            checkpoint["aligned"] = self.aligned.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As it was saved."""
        if "aligned" in checkpoint:
            self.aligned.load_state_dict(checkpoint["aligned"])
