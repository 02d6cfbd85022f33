"""The input of a network's head: the last grid of cells from which evidence reaches the output."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from xai_align import plugins
from xai_align.features.grid_layer import GridLayer
from xai_align.features.grid_layers import grids
from xai_align.features.split_at_layer import split_at_layer
from xai_align.hookspecs import FeatureSpace

#: Name of the layer.
HEAD = "head"


def head_input(model: nn.Module, image: Tensor | None = None, output: str | int | None = None) -> FeatureSpace:
    """Return the feature space of the head's input, with the network split there: a plugin's, or the last grid layer.

    If the head is affine, as global average pooling and a linear layer are, its readout is local.

    Args:
        model: the network.
        image: ``[1, C, H, W]``, used only for shape, dtype and device; needed for networks that no plugin knows.
        output: which of the model's outputs are the logits.

    Raises:
        TypeError: no image is given, and no plugin knows the network.
        ValueError: the network has no such layer, or its input is not an image.

    Example::

        head_input(model, images[:1]).layer  # "conv2"
    """
    known = plugins.feature_space(model, HEAD)
    if known is not None:
        return known
    if image is None:
        raise TypeError(f"layer {HEAD!r} is found by a pass; give image=, of shape [1, C, H, W]")
    if image.dim() != 4:
        raise ValueError(
            f"layer {HEAD!r} is found for images [N, C, H, W], and the input has {image.dim()} axes; name the layer to "
            "read out, or leave it out for the default"
        )
    layers, moved = grids(model, image, output)
    if moved or not layers or not layers[-1].reaches_output:
        found = _what_is_missing(layers, moved)
        raise ValueError(
            f"the head of {type(model).__name__} reads no grid of cells ({found}); name the layer to read out, or "
            "leave it out for the default"
        )
    last = layers[-1]
    return replace(last.space, split=split_at_layer(model, last.name, image, output))


def _what_is_missing(layers: list[GridLayer], moved: bool) -> str:
    if moved:
        return "it crops, pads, flips or shifts the image, or reorders cells"
    if not layers:
        return "there is none"
    return f"'{layers[-1].name}' is the last, and of it only class tokens, or nothing at all, reach the output"
