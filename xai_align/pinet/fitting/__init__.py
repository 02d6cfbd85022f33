"""The machinery behind :func:`~xai_align.pinet.fit.fit_pinet`, one idea a file."""
