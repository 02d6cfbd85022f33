"""Aligned attributions with Captum's conventions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_align.align_attribution import ALIGNAttribution
    from captum_align.amortised_fei_attribution import AmortisedFEIAttribution
    from captum_align.clipped_gradient_attribution import ClippedGradientAttribution
    from captum_align.epic_attribution import EPICAttribution
    from captum_align.fei_attribution import FEIAttribution
    from captum_align.layer_pinet_attribution import LayerPiNetAttribution
    from captum_align.pinet_attribution import PiNetAttribution
    from xai_align.align.method import ClassAgnosticWarning

__all__ = [
    "ALIGNAttribution",
    "AmortisedFEIAttribution",
    "ClassAgnosticWarning",
    "ClippedGradientAttribution",
    "EPICAttribution",
    "FEIAttribution",
    "LayerPiNetAttribution",
    "PiNetAttribution",
]

#: Module of each public class. Captum is imported on first access, so that listing plugins stays fast.
_HOME = {
    "ALIGNAttribution": "captum_align.align_attribution",
    "AmortisedFEIAttribution": "captum_align.amortised_fei_attribution",
    "ClassAgnosticWarning": "xai_align.align.method",
    "ClippedGradientAttribution": "captum_align.clipped_gradient_attribution",
    "EPICAttribution": "captum_align.epic_attribution",
    "FEIAttribution": "captum_align.fei_attribution",
    "LayerPiNetAttribution": "captum_align.layer_pinet_attribution",
    "PiNetAttribution": "captum_align.pinet_attribution",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'captum_align' has no attribute '{name}'; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
