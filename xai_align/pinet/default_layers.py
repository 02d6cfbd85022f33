"""Default layers of a readout, found by the structure of the network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xai_align import plugins
from xai_align._tools.callers_level import callers_level
from xai_align._tools.model_state import signature
from xai_align.features.grid_layer import GridLayer
from xai_align.features.grid_layers import grids
from xai_align.features.resolve_layer import EMBEDDING
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.cuts import is_cut
from xai_align.pinet.network.pseudo_linear import PseudoLinear
from xai_align.pinet.readout_layers import ReadoutLayer

#: Largest height of a cell of the fine layer, in pixels.
LARGEST_CELL = 8
#: Smallest number of rows of the fine layer.
FEWEST_ROWS = 24
#: Strength of the gamma rule from one map of a convolutional or hierarchical network on.
GAMMA_OF_MAPS = 0.25
#: Strength of the residual rule from the depths of a network with one grid on.
RESIDUAL_OF_DEPTHS = 0.1
#: Share of the exchanges between cells on one grid from which on a network is taken to have one grid.
ISOTROPIC = 0.6
#: Share of that depth up to which it is read.
DEEPEST = 1 / 3

_found: WeakKeyDictionary[nn.Module, dict[Any, list[ReadoutLayer]]] = WeakKeyDictionary()


def default_layers(
    model: nn.Module, inputs: Sequence[Any], extra: Sequence[Any] = (), output: str | int | None = None
) -> list[ReadoutLayer]:
    """Return the layers of the default readout, each with its rule, as a mixture with equal weights.

    They follow from the operations of the network and not from its library, so the same weights have the same default
    in every library and behind every wrapper:

    1. a PiNet's own decomposition, or the layer that a plugin names for the network;
    2. for a network that keeps one grid through most of its depth (vision transformers, mixers): the grid at several
       depths, with flowing attention and the residual rule;
    3. for other networks with a grid (convolutional and hierarchical ones): the last layer with cells of at most 8
       pixels and at least 24 rows, or the input of an image too small for that, by the gamma rule, the classifier by
       the gate rule, with placed biases;
    4. else the input, by frozen gates; for images, a warning says so.

    Operations on single pixels, such as a normalisation, count as the input: they do not change the default. A network
    that crops, flips or shifts the image itself is read at the last layer before that, with biases apart: a grid after
    it does not lie over the image. If that is the input, a warning says so.

    Args:
        model: the network, without wrappers that hide its operations.
        inputs: the model's inputs; the first example is run to check that the layers cut the network.
        extra: further arguments.
        output: which of the model's outputs are the logits.

    Example::

        default_layers(model, (images,))  # one ReadoutLayer, with rule="gamma" and biases="placed"
    """
    if isinstance(model, PseudoLinear):
        return [ReadoutLayer()]
    named = plugins.feature_space(model)
    if named is not None:
        return [ReadoutLayer(feature_space=named)]
    if not _is_images(inputs):
        return [ReadoutLayer(feature_space=_INPUT)]
    known = _found.setdefault(model, {})
    key = (signature(model), tuple(inputs[0].shape[1:]), inputs[0].dtype, inputs[0].device, output)
    found = known.get(key)  # another thread may clear the dictionary at any time
    if found is None:
        found = _by_structure(model, inputs, extra, output)
        known.clear()  # of another state of the parameters
        known[key] = found
    return list(found)


def _by_structure(
    model: nn.Module, inputs: Sequence[Any], extra: Sequence[Any], output: str | int | None
) -> list[ReadoutLayer]:
    found, moved = grids(model, inputs[0], output, extra)
    cut = partial(is_cut, model, inputs=inputs, extra=extra, output=output)
    # what acts on each pixel alone, as a normalisation does, is no layer of the network, and its output is the image
    pixels = (layer for layer in reversed(found) if layer.of_pixels and cut(layer.name))
    image = next(pixels, None) or GridLayer(_INPUT, *inputs[0].shape[-2:])
    layers = [layer for layer in found if not layer.of_pixels]
    chosen = depths(layers) if has_one_grid(layers) else []
    rule: dict[str, Any] = {"attention": "flowing", "residual": RESIDUAL_OF_DEPTHS}
    if not chosen:
        chosen = [fine_layer([image, *layers])] if layers else []
        rule = {"rule": "gamma", "gamma": GAMMA_OF_MAPS, "classifier": 0.0, "biases": "apart" if moved else "placed"}
    cuts = _cutting(chosen, cut)
    embedding = None if cuts else plugins.feature_space(model, EMBEDDING)
    if embedding is not None:
        return [ReadoutLayer(feature_space=embedding)]
    if not cuts or (moved and cuts == [image]):
        _warn(model, image, bool(found) and not layers, moved)
    if cuts:
        return [ReadoutLayer(feature_space=layer.space, **rule) for layer in cuts]
    return [ReadoutLayer(feature_space=image.space)]


def _warn(model: nn.Module, image: GridLayer, of_pixels: bool, moved: bool) -> None:
    if moved:
        reason = (
            "crops, pads, flips or shifts the image, or reorders cells, so that its layers do not lie over it: do "
            "that before the network, and explain it on the changed image, or name"
        )
    else:
        beside = " but those of single pixels" if of_pixels else ""
        reason = f"has no layer through which all evidence passes on a grid over the image{beside}: name"
    where = "its input" if image.space is _INPUT else repr(image.name)
    warnings.warn(
        f"{type(model).__name__} {reason} a layer with feature_space=... (layer=... of methods). It is read at "
        f"{where}, where most of a map may cancel",
        stacklevel=callers_level(),
    )


def _cutting(layers: list[GridLayer], cuts: Callable[[str], bool]) -> list[GridLayer]:
    """Return the layers that cut the network by its values too; the first and the last stand for all."""

    def cut(layer: GridLayer) -> bool:
        return layer.space is _INPUT or cuts(layer.name)

    return layers if all(map(cut, layers[:1] + layers[-1:])) else list(filter(cut, layers))


def has_one_grid(layers: Sequence[GridLayer]) -> bool:
    """Return whether the last grid is that of at least three fifths of the exchanges between cells.

    Of tokens one exchange is enough: several blocks in a row may be one module.
    """
    if not layers or layers[-1].depth < (1 if layers[-1].has_tokens else 2):
        return False
    on_last = [layer.depth for layer in layers if layer.grid == layers[-1].grid]
    return max(on_last) - min(on_last) >= ISOTROPIC * layers[-1].depth


def depths(layers: Sequence[GridLayer]) -> list[GridLayer]:
    """Return the first layer of each depth on the last grid, up to a third of the depth.

    Deeper, cells contain information from other cells, and evidence lies in class tokens.
    """
    last = layers[-1]
    first_of = {layer.depth: layer for layer in reversed(layers) if layer.grid == last.grid}
    end = min(first_of) + DEEPEST * (last.depth - min(first_of))
    return [first_of[depth] for depth in sorted(first_of) if depth <= end]


def fine_layer(layers: Sequence[GridLayer]) -> GridLayer:
    """Return the last layer with small cells and enough rows; where there is none, the first one, the input."""
    height = layers[0].rows
    # one row more, as a convolution without padding gives one less
    fine = [one for one in layers if height <= LARGEST_CELL * (one.rows + 1) and one.rows >= FEWEST_ROWS]
    return (fine or layers)[-1 if fine else 0]


_INPUT = FeatureSpace(layer="input", layout="NCHW")


def _is_images(inputs: Sequence[Any]) -> bool:
    """Return whether this is one batch of images to test the network on; other inputs raise later, with a reason."""
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
        return False
    (images,) = inputs
    return images.dim() == 4 and len(images) > 0 and images.is_floating_point() and bool(torch.isfinite(images).all())
