"""Perturbation of inputs: ranking, fills, and curves of the outputs while features are removed or kept."""

from xai_align.perturbation.curve import Curve, iterate_curves, perturbation_curve, perturbation_curves
from xai_align.perturbation.fills import GaussianBlur, Noise, noise_from
from xai_align.perturbation.noisy_linear import NoisyLinear
from xai_align.perturbation.questioned import curve_values
from xai_align.perturbation.ranking import TieWarning, descending_ranks, tie_rate
from xai_align.perturbation.spec import PerturbationSpec

__all__ = [
    "Curve",
    "GaussianBlur",
    "Noise",
    "NoisyLinear",
    "PerturbationSpec",
    "TieWarning",
    "curve_values",
    "descending_ranks",
    "iterate_curves",
    "noise_from",
    "perturbation_curve",
    "perturbation_curves",
    "tie_rate",
]
