"""Parts of :func:`~xai_align.training.fit_pinet`, one per file."""
