"""Parts of :class:`~xai_align.align.trainer.AlignTrainer`, one per file."""
