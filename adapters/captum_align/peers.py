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

from captum_align.default_options import patch_masks, path_in_pieces, sliding_windows, zero_distribution
from captum_align.layer_grad_cam import FeatureSpaceGradCam
from captum_align.peer import Peer, Recipe
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

PEERS: dict[str, Recipe] = {
    "saliency": Recipe(method=Saliency),
    "input_x_gradient": Recipe(method=InputXGradient),
    "integrated_gradients": Recipe(method=IntegratedGradients, defaults=path_in_pieces),
    "gradient_shap": Recipe(method=GradientShap, defaults=zero_distribution, draws=True),
    "deep_lift": Recipe(method=_DeepLift, hooks_modules=True),
    "guided_backprop": Recipe(method=_GuidedBackprop, hooks_modules=True),
    "occlusion": Recipe(method=Occlusion, defaults=sliding_windows),
    "feature_ablation": Recipe(method=FeatureAblation, defaults=patch_masks),
    "layer_grad_cam": Recipe(method=FeatureSpaceGradCam),
}


#: Layers whose backward pass these methods change; elsewhere they use the plain gradient.
CHANGED_LAYERS: dict[str, tuple[type[nn.Module], ...]] = {
    "guided_backprop": (nn.ReLU,),
    "deep_lift": tuple(SUPPORTED_NON_LINEAR),
}


def build_peer(name: str, model: Any, **options: Any) -> Peer:
    """Return the method of this name for a model.

    Raises:
        KeyError: there is no such method.
        TypeError: the method has no such option, or needs an ``nn.Module``.
    """
    peer = Peer(model, PEERS[name], **options)
    _warn_of_plain_gradient(name, model)
    return peer


def _warn_of_plain_gradient(name: str, model: Any) -> None:
    """Warn of a network without layers that the method changes, about which Captum is silent."""
    layers = CHANGED_LAYERS.get(name)
    if layers and not any(type(module) in layers for module in model.modules()):
        plain = "the plain gradient" if name == "guided_backprop" else "gradient times (input - baseline)"
        warnings.warn(
            f"{name} finds no layer in {type(model).__name__} that it treats in its own way "
            f"({', '.join(layer.__name__ for layer in layers)}): the result is {plain}",
            stacklevel=callers_level(),
        )
