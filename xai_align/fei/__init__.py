"""Masks optimised for the whole insertion and deletion curve, without rerouting the computation (FEI)."""

from xai_align.fei.amortised.explainer import AmortisedExplainer
from xai_align.fei.amortised.explainer_file import load_explainer, save_explainer
from xai_align.fei.amortised.fingerprint import OtherNetwork
from xai_align.fei.amortised.fit import FEIFit, fit_fei
from xai_align.fei.amortised.method import AmortisedFEI
from xai_align.fei.amortised.options import FitFEIOptions
from xai_align.fei.amortised.score_network import ScoreNetwork
from xai_align.fei.curve_options import CurveOptions
from xai_align.fei.method import FEIMethod
from xai_align.fei.optimised import AreaMissed, OptimisedMasks, UnchangedAnswer
from xai_align.fei.optimize import optimize_masks
from xai_align.fei.published.clipped_gradient import clipped_gradient
from xai_align.fei.published.clipped_gradient_method import ClippedGradientMethod
from xai_align.fei.published.gradient_clipping import NothingClipped, NothingToClip, clip_gradients
from xai_align.fei.published.nested_options import NestedOptions

__all__ = [
    "AmortisedExplainer",
    "AmortisedFEI",
    "AreaMissed",
    "ClippedGradientMethod",
    "CurveOptions",
    "FEIFit",
    "FEIMethod",
    "FitFEIOptions",
    "NestedOptions",
    "NothingClipped",
    "NothingToClip",
    "OptimisedMasks",
    "OtherNetwork",
    "ScoreNetwork",
    "UnchangedAnswer",
    "clip_gradients",
    "clipped_gradient",
    "fit_fei",
    "load_explainer",
    "optimize_masks",
    "save_explainer",
]
