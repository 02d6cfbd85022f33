"""Steps of :func:`~xai_align.training.fit_pinet`, one idea a file."""
