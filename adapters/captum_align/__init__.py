"""Aligned attributions with Captum's conventions."""

from captum_align.layer_pinet_attribution import LayerPiNetAttribution
from captum_align.pinet_attribution import PiNetAttribution

__all__ = ["LayerPiNetAttribution", "PiNetAttribution"]
