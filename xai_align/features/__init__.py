"""Feature spaces: finding layers, mapping their tensors to the image, and running a network through them."""

from xai_align.features.resolve_layer import Layer, layer_names, resolve_layer

__all__ = ["Layer", "layer_names", "resolve_layer"]
