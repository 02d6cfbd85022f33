"""Feature spaces: how layers are found, how their tensors lie in the image, and how a network is cut there."""

from xai_align.features.resolve_layer import Layer, layer_names, resolve_layer

__all__ = ["Layer", "layer_names", "resolve_layer"]
