"""Explanations of fixed pictures as a callback of transformers' ``Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from xai_align.adapter_tools import optional_package

with optional_package("hf", "transformers", "callbacks of transformers' Trainer"):
    from transformers import TrainerCallback

if TYPE_CHECKING:
    from xai_align.report.watching import ExplanationLog


class ExplanationCallback(TrainerCallback):
    """Callback that makes a step of an :class:`~xai_align.report.watching.ExplanationLog` at the end of each epoch.

    Only the first process explains. Parameters that are sharded over processes (FSDP, DeepSpeed's stage 3) can't be
    explained. Files go to ``explanations`` in the trainer's output folder, unless the log names another folder.

    Args:
        log: the log, with its pictures, questions and share of time.

    Example::

        from xai_align.report.watching import ExplanationLog

        Trainer(..., callbacks=[ExplanationCallback(ExplanationLog(pixel_values, labels))])
    """

    def __init__(self, log: ExplanationLog) -> None:
        self.explanation_log = log

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Start the log's clock."""
        if self.explanation_log.folder == Path("explanations"):
            self.explanation_log.folder = Path(args.output_dir) / self.explanation_log.folder
        self.explanation_log.start()

    def on_epoch_end(self, args: Any, state: Any, control: Any, *, model: Any, **others: Any) -> None:
        """Explain, if an explanation is due."""
        if state.is_world_process_zero:
            self.explanation_log.step(model, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any, **others: Any) -> None:
        """Explain at the end, and close the writer."""
        if state.is_world_process_zero:
            self.explanation_log.finish(model, state.global_step)
