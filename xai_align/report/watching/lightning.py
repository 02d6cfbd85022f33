"""Explanations of fixed pictures as a callback of Lightning. Needs the package ``lightning``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xai_align._tools.optional_package import optional_package
from xai_align.report.watching.explanation_log import ExplanationLog
from xai_align.report.watching.writers import MlflowWriter, TensorBoardWriter, WandbWriter, Writer

with optional_package("lightning", "lightning", "callbacks of Lightning"):
    from lightning import Callback, LightningModule, Trainer


class ExplanationCallback(Callback):
    """Callback that makes a step of an :class:`ExplanationLog` at the end of each epoch of training.

    If the log has no writer, the first logger of the trainer that is TensorBoard's, Weights & Biases' or MLflow's is
    used. Only the first process explains. Parameters that are sharded over processes (FSDP) can't be explained.

    Args:
        log: the log, with its pictures, questions and share of time.
        network: the dotted name of the network in the Lightning module, such as ``"backbone"``; None: the module
            itself, whose ``forward`` then gives logits.

    Example::

        log = ExplanationLog(images, labels)
        Trainer(callbacks=[ExplanationCallback(log, network="classifier")])
    """

    def __init__(self, log: ExplanationLog, network: str | None = None) -> None:
        super().__init__()
        self._network = network
        self.explanation_log = log  # Lightning sets an attribute "log"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the log's clock, with the trainer's logger if the log has no writer.

        Raises:
            AttributeError: the module has no network of this name.
        """
        self._explained(pl_module)
        if self.explanation_log.writer is None and trainer.is_global_zero:
            self.explanation_log.writer = writer_of(trainer.loggers)
            if self.explanation_log.folder == Path("explanations"):
                self.explanation_log.folder = Path(trainer.default_root_dir) / self.explanation_log.folder
        self.explanation_log.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain, if an explanation is due."""
        if trainer.is_global_zero:
            self.explanation_log.step(self._explained(pl_module), trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain at the end, and close the writer."""
        if trainer.is_global_zero:
            self.explanation_log.finish(self._explained(pl_module), trainer.global_step)

    def _explained(self, pl_module: LightningModule) -> Any:
        return pl_module if self._network is None else pl_module.get_submodule(self._network)


def writer_of(loggers: list[Any]) -> Writer | None:
    """Return a writer into the run of the first of Lightning's loggers that has one; None: there is none."""
    for logger in loggers:
        kinds = {kind.__name__ for kind in type(logger).__mro__}
        if "TensorBoardLogger" in kinds:
            return TensorBoardWriter(logger.experiment)
        if "WandbLogger" in kinds:
            return WandbWriter(logger.experiment)
        if "MLFlowLogger" in kinds:
            return MlflowWriter(logger.experiment, logger.run_id)
    return None
