"""The machinery behind :class:`~xai_align.align.trainer.AlignTrainer`, one idea a file."""
