"""Training: state, checkpoints, seeds, logs and processes, and fitting a PiNet with them."""

from xai_align.training.pinet.fit import Fit, fit_pinet
from xai_align.training.pinet.options import FitOptions

__all__ = ["Fit", "FitOptions", "fit_pinet"]
