"""Captum's own methods by name, as baselines of comparisons."""

from __future__ import annotations

import warnings
from typing import Any

from captum.attr import (
    DeepLift,
    FeatureAblation,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    Saliency,
)
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
from torch import nn

from captum_align.baseline_method import BaselineMethod, BaselineSpec
from captum_align.default_options import patch_masks, path_in_pieces, sliding_windows, zero_distribution
from captum_align.layer_grad_cam import FeatureSpaceGradCam
from xai_align.adapter_tools import callers_level, with_globals


class _Warnings:
    """Python's ``warnings`` for Captum's code, without its notices about hooks, which it sets on a copy."""

    @staticmethod
    def warn(message: Any, category: type[Warning] | None = None, stacklevel: int = 1) -> None:
        if not str(message).startswith("Setting "):
            warnings.warn(message, category, stacklevel + 1)


class _DeepLift(DeepLift):
    attribute = with_globals(DeepLift.attribute, warnings=_Warnings)


class _GuidedBackprop(GuidedBackprop):
    attribute = with_globals(GuidedBackprop.attribute, warnings=_Warnings)


_DeepLift.__name__, _GuidedBackprop.__name__ = DeepLift.__name__, GuidedBackprop.__name__

SPECS: dict[str, BaselineSpec] = {
    "saliency": BaselineSpec(method=Saliency),
    "input_x_gradient": BaselineSpec(method=InputXGradient),
    "integrated_gradients": BaselineSpec(method=IntegratedGradients, defaults=path_in_pieces),
    "gradient_shap": BaselineSpec(method=GradientShap, defaults=zero_distribution, draws=True),
    "deep_lift": BaselineSpec(method=_DeepLift, hooks_modules=True),
    "guided_backprop": BaselineSpec(method=_GuidedBackprop, hooks_modules=True),
    "occlusion": BaselineSpec(method=Occlusion, defaults=sliding_windows),
    "feature_ablation": BaselineSpec(method=FeatureAblation, defaults=patch_masks),
    "layer_grad_cam": BaselineSpec(method=FeatureSpaceGradCam),
}


#: Layers whose backward pass these methods change; elsewhere they use the plain gradient.
CHANGED_LAYERS: dict[str, tuple[type[nn.Module], ...]] = {
    "guided_backprop": (nn.ReLU,),
    "deep_lift": tuple(SUPPORTED_NON_LINEAR),
}


def build_baseline(name: str, model: Any, **options: Any) -> BaselineMethod:
    """Return the method of this name for a model.

    Raises:
        KeyError: there is no such method.
        TypeError: the method has no such option, or needs an ``nn.Module``.
    """
    method = BaselineMethod(model, SPECS[name], **options)
    _warn_of_plain_gradient(name, model)
    return method


def _warn_of_plain_gradient(name: str, model: Any) -> None:
    """Warn about a network without layers that the method changes; Captum does not warn."""
    layers = CHANGED_LAYERS.get(name)
    if layers and not any(type(module) in layers for module in model.modules()):
        plain = "the plain gradient" if name == "guided_backprop" else "gradient times (input - baseline)"
        warnings.warn(
            f"{name} finds no layer in {type(model).__name__} that it handles differently "
            f"({', '.join(layer.__name__ for layer in layers)}): the result is {plain}",
            stacklevel=callers_level(),
        )
