"""ALIGN's training steps as a Lightning module. Needs the package ``lightning``."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule

from xai_align.align.trainer import AlignTrainer


class AlignModule(LightningModule):
    """Lightning module that trains masker and classifier in turn on every batch, with the trainer's optimisers.

    Optimisation is manual. Lightning provides loaders, device, callbacks, logging and checkpoints. Left to
    :meth:`AlignTrainer.fit` are warm-up, the masker-only phase, schedules of the learning rate, the response to
    collapse, the choice of the best weights, and several processes.
    For a warm-up, run a module of ``AlignTrainer(classifier, recipe="dre")`` first.

    Args:
        aligned: the trainer, with a masker if its recipe trains one.

    Raises:
        ValueError: the masker is missing: Lightning needs it before the first batch.
    """

    def __init__(self, aligned: AlignTrainer) -> None:
        super().__init__()
        if aligned.recipe.trains_masker and aligned.masker is None:
            raise ValueError("give the trainer its masker: AlignTrainer(classifier, Masker(in_channels=3))")
        self.automatic_optimization = False
        self.aligned = aligned
        self.classifier, self.masker = aligned.classifier, aligned.masker  # registered, so that Lightning moves them

    def configure_optimizers(self) -> None:
        """Return no optimiser: both are the trainer's."""

    def on_fit_start(self) -> None:
        """Check that there is one process only: gradients are not reduced over several."""
        if self.trainer.world_size > 1:
            raise ValueError(
                "AlignModule runs in one process; give Lightning's Trainer devices=1, or use AlignTrainer.fit, which "
                "shares batches between several"
            )

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Make the masker's step, if there is one, and the classifier's, on the same batch; log their losses."""
        measured = {} if self.masker is None else self.aligned.masker_step(batch)
        self.log_dict({**measured, **self.aligned.classifier_step(batch)})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the trainer's optimisers and state, once they exist."""
        if self.aligned.space is not None:
            checkpoint["aligned"] = self.aligned.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the trainer's optimisers and state."""
        if "aligned" in checkpoint:
            self.aligned.load_state_dict(checkpoint["aligned"])
