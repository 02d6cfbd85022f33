"""Training: state, checkpoints, seeds, logs and processes, and the fit of a PiNet on them."""

from xai_align.training.pinet.fit import Fit, fit_pinet

__all__ = ["Fit", "fit_pinet"]
