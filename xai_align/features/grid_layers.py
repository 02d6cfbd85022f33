"""Layers through which all evidence passes and whose outputs lie on a grid over the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import log
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xai_align import plugins
from xai_align._tools.logits import select_logits
from xai_align._tools.model_state import signature
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import hides_interrupt
from xai_align.features.cell_exchanges import with_depths
from xai_align.features.dominating_nodes import dominating_nodes
from xai_align.features.grid_layer import GridLayer
from xai_align.features.raster_order import floating_parts, in_raster_order
from xai_align.hookspecs import FeatureSpace, Layout

#: Largest ratio between the aspect ratios of a grid and of the image for which the grid is taken to cover the image.
PROPORTIONS = 1.34
#: Largest number of class, distillation and register tokens that may precede the patch tokens.
MOST_PREFIX_TOKENS = 16


def grid_layers(model: nn.Module, image: Tensor, output: str | int | None = None) -> list[GridLayer]:
    """Return the layers that cut the network and whose output is a grid, in the order in which they end.

    A layer cuts the network if every path from the input to the output passes through its output. The paths are those
    of the graph that autograd records in one pass on fixed noise, so that the result depends on the network and on the
    size of the image and not on an image, and on operations and not on the names or the library of the modules.
    Evidence that a network takes out of that graph (``detach``) is not seen; :func:`~xai_align.pinet.cuts.is_cut`
    sees it.

    Args:
        model: the network; a copy in eval mode is run.
        image: ``[1, C, H, W]``, for shape, dtype and device alone.
        output: which of the model's outputs are the logits.

    Returns:
        The layers, each tensor once, by the name of the outermost module that returns it; empty for a network that
        records no graph.

    Example::

        [layer.name for layer in grid_layers(model, images[:1])]  # ["conv1", "pool", "conv2"]
    """
    known = _found.setdefault(model, {})
    key = (signature(model), tuple(image.shape[1:]), image.dtype, image.device, output)
    found = known.get(key)
    if found is None:
        found = _in_one_pass(model, image, output)
        known.clear()  # of another state of the parameters
        known[key] = found  # another thread may clear it again
    return list(found)


_found: WeakKeyDictionary[nn.Module, dict[Any, list[GridLayer]]] = WeakKeyDictionary()


def _in_one_pass(model: nn.Module, image: Tensor, output: str | int | None) -> list[GridLayer]:
    copy = Replica(model, evaluate=True).module
    ended = _record_outputs(copy)
    noise = torch.randn((1, *image.shape[1:]), generator=torch.Generator().manual_seed(0)).to(image)
    with torch.inference_mode(False), torch.enable_grad():
        noise = noise.requires_grad_()
        try:
            # the network may write to its input
            logits = select_logits(copy(noise.clone()), output)
        except Exception as error:  # it takes no single example, or writes to views, which autograd refuses
            if hides_interrupt(error):
                raise
            return []
        if logits.grad_fn is None:
            return []
        cuts = dominating_nodes(logits.grad_fn)
        by_node = {end.node: end for end in ended if end.node in cuts}  # the module that ends last is the outermost
        found = _on_grids(model, by_node.values(), (image.shape[-2], image.shape[-1]))
        layers = with_depths(logits, found)
    return in_raster_order(model, layers, noise.detach())


class _End(NamedTuple):
    """End of a module: its output, with the node of the graph at that time, as a network may write to it later."""

    name: str
    tensor: Tensor
    node: Any


def _record_outputs(copy: nn.Module) -> list[_End]:
    """Return a list that fills, as the copy runs, with the outputs of modules that return one floating tensor."""
    ends: list[_End] = []
    runs: dict[str, int] = {}

    def remember(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            if runs[name] == 2:  # a module that runs twice is no single layer
                ends[:] = [end for end in ends if end.name != name]
            tensors = floating_parts(output)
            if runs[name] == 1 and len(tensors) == 1:
                ends.append(_End(name, tensors[0], tensors[0].grad_fn))

        return hook

    for name, module in copy.named_modules():
        if name:
            module.register_forward_hook(remember(name))
    return ends


def _on_grids(model: nn.Module, ends: Iterable[_End], size: tuple[int, int]) -> list[tuple[GridLayer, Tensor]]:
    found: list[tuple[GridLayer, Tensor]] = []
    for end in ends:
        layer = _on_grid(model, end.name, end.tensor, size, [one for one, _ in found])
        if layer is not None:
            found.append((layer, end.tensor))
    return found


def _on_grid(
    model: nn.Module, name: str, output: Tensor, size: tuple[int, int], before: Sequence[GridLayer]
) -> GridLayer | None:
    if len(output) != 1 or output.dim() not in (3, 4):
        return None
    known = known_space(model, name)
    if output.dim() == 4:
        layouts: dict[Layout, tuple[int, int]] = {
            "NCHW": (output.shape[2], output.shape[3]),
            "NHWC": (output.shape[1], output.shape[2]),
        }
        first: tuple[Layout, ...] = ("NHWC", "NCHW") if known and known.layout == "NHWC" else ("NCHW", "NHWC")
        for layout in first:
            if _covers(*layouts[layout], size):
                return GridLayer(FeatureSpace(layer=name, layout=layout), *layouts[layout])
        return None
    return _tokens(name, output, size, before, known)


def _tokens(
    name: str, output: Tensor, size: tuple[int, int], before: Sequence[GridLayer], known: FeatureSpace | None
) -> GridLayer | None:
    """Return the layer if its tokens, without a prefix, form the grid of an earlier layer or one like the image."""
    earlier = list(dict.fromkeys(layer.grid for layer in reversed(before)))
    axes: tuple[tuple[Layout, int], ...] = (("NLC", output.shape[1]), ("NCL", output.shape[2]))
    # of a number of tokens that fits no earlier grid, the grid is a guess
    for guess in (False, True):
        for layout, count in axes:
            for prefix in _prefixes(layout, known):
                grids = _grids_like(size, count - prefix) if guess else earlier
                for rows, columns in grids:
                    if rows * columns == count - prefix:
                        space = known or FeatureSpace(layer=name)
                        return GridLayer(replace(space, layout=layout, prefix_tokens=prefix), rows, columns)
    return None


def _prefixes(layout: Layout, known: FeatureSpace | None) -> list[int]:
    """Return the numbers of prefix tokens to try; none if a plugin says that the layout is another one."""
    if known is not None and known.layout not in ("auto", layout):
        return []
    # a plugin's number is that of the last layers; before, there may be no class token yet
    first = [] if known is None else [known.prefix_tokens]
    return list(dict.fromkeys([*first, *(range(MOST_PREFIX_TOKENS + 1) if layout == "NLC" else (0,))]))


def token_spaces(layers: Sequence[GridLayer]) -> dict[int, FeatureSpace]:
    """Return the spaces of tokens ``[N, L, C]`` on these layers' grids, by ``L``; prefix tokens come first."""
    known = [layer for layer in layers if layer.space.layout == "NLC"]
    found = {layer.rows * layer.columns + layer.space.prefix_tokens: layer.space for layer in known}
    for rows, columns in dict.fromkeys(layer.grid for layer in layers):
        for prefix in range(MOST_PREFIX_TOKENS + 1):
            space = FeatureSpace(
                layer="tokens", layout="NLC", prefix_tokens=prefix, grid=partial(_given_grid, (rows, columns))
            )
            found.setdefault(rows * columns + prefix, space)
    return found


def _given_grid(grid: tuple[int, int], image_size: tuple[int, int], tokens: int) -> tuple[int, int]:
    return grid


def known_space(model: nn.Module, name: str) -> FeatureSpace | None:
    """Return what a plugin says of a layer, as a layer of the model or of the part of it that the plugin knows.

    A wrapper around a network hides it from plugins; the layer's enclosing modules are asked in turn.
    """
    path = name.split(".")
    inner = model
    for depth in range(len(path)):
        known = plugins.feature_space(inner, ".".join(path[depth:]))
        if known is not None:
            return replace(known, layer=name)
        inner = inner.get_submodule(path[depth])
    return None


def _covers(rows: int, columns: int, size: tuple[int, int]) -> bool:
    height, width = size
    fits = rows * columns > 1 and rows <= height and columns <= width
    return fits and abs(log(rows * width / (columns * height))) < log(PROPORTIONS)


def _grids_like(size: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Return the grid of so many cells whose proportions are the image's, if there is one."""
    height, width = size
    rows = round((count * height / width) ** 0.5) if count > 0 else 0
    return [(rows, count // rows)] if rows and count % rows == 0 and _covers(rows, count // rows, size) else []
