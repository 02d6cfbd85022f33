"""Masks optimised for the whole insertion and deletion curve, without rerouting the computation (FEI)."""

from xai_align.fei.curve_options import CurveOptions
from xai_align.fei.method import FEIMethod
from xai_align.fei.optimised import AreaMissed, OptimisedMasks
from xai_align.fei.optimize import optimize_masks
from xai_align.fei.published.clipped_gradient import clipped_gradient
from xai_align.fei.published.clipped_gradient_method import ClippedGradientMethod
from xai_align.fei.published.gradient_clipping import NothingClipped, NothingToClip, clip_gradients
from xai_align.fei.published.nested_options import NestedOptions

__all__ = [
    "AreaMissed",
    "ClippedGradientMethod",
    "CurveOptions",
    "FEIMethod",
    "NestedOptions",
    "NothingClipped",
    "NothingToClip",
    "OptimisedMasks",
    "clip_gradients",
    "clipped_gradient",
    "optimize_masks",
]
