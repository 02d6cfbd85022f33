"""Captum's own test configurations that apply to a readout, without the methods they were written for."""

from __future__ import annotations

from captum._utils.common import _format_additional_forward_args
from captum.attr import NoiseTunnel
from captum.attr._models.base import _get_deep_layer_name
from captum.testing.attr.helpers.test_config import config

from captum_align import LayerPiNetAttribution, PiNetAttribution


def algorithms(entry):
    return {algorithm.__name__ for algorithm in entry["algorithms"]}


#: Every entry for input attributions that need nothing but a gradient.
INPUT = [entry for entry in config if "InputXGradient" in algorithms(entry) and "layer" not in entry]
#: Every entry for one layer whose output is attributed to.
LAYER = [
    entry for entry in config if "LayerGradientXActivation" in algorithms(entry) and isinstance(entry.get("layer"), str)
]
#: Entries whose network ends in softmax: there are no logits to read out.
WITHOUT_LOGITS = {"conv_layer_single_target"}


def name_of(entry):
    return entry["name"]


def method_for(entry):
    """PiNet as the entry wants it: at the input or at a layer, in a NoiseTunnel or plain."""
    model = entry["model"]
    if "layer" in entry:
        return LayerPiNetAttribution(model, _get_deep_layer_name(model, entry["layer"]))
    plain = PiNetAttribution(model)
    return NoiseTunnel(plain) if entry.get("noise_tunnel") else plain


def arguments_of(entry):
    """``(inputs, other arguments)``, additional arguments always as a tuple."""
    arguments = dict(entry["attribute_args"])
    inputs = arguments.pop("inputs")
    extra = _format_additional_forward_args(arguments.pop("additional_forward_args", None))
    return inputs, {**arguments, "additional_forward_args": extra}
