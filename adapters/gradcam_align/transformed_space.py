"""Feature spaces from pytorch-grad-cam's ``reshape_transform``.

The package applies the transform to activations and gradients, ``[N, L, C]`` to ``[N, C, h, w]``. A readout needs to
know where each contribution goes, and methods that run the head again need the way back. To find out where
the transform moves each element, it is applied to a tensor that contains the indices of its own elements. A second
tensor, with other values, shows whether it computes with them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from xai_align.adapter_tools import Replica, callers_level, noise_like
from xai_align.features.resolve_layer import resolve_layer
from xai_align.features.routes import find_layer
from xai_align.features.unwrapping import unwrapped
from xai_align.hookspecs import FeatureSpace, Layout

#: Function from a layer's output to a map ``[N, C, h, w]``.
Transform = Callable[[Any], Tensor]


class NotARearrangement(ValueError):
    """Error of a transform that computes with the values of a layer, or does not put them on a grid.

    Example::

        cam = PiNetCAM(model, ["conv2"], reshape_transform=lambda z: z.abs())
        try:
            cam(images, [281, 281])
        except ValueError as error:
            print(error)
    """


def transformed_space(model: nn.Module, layer: str | FeatureSpace, image: Tensor, transform: Transform) -> FeatureSpace:
    """Return the feature space of a layer whose positions are those that a transform gives it.

    A transform that does not run on the layer's output, such as one for another library's layout, is left out, with a
    warning, if the layout is known without it.

    Args:
        model: the network.
        layer: the layer; a ``FeatureSpace`` states its own positions.
        image: ``[1, C, H, W]``, used only for shape, dtype and device.
        transform: the ``reshape_transform``.

    Raises:
        NotARearrangement: the transform computes with the values, or does not put them on a grid.
    """
    if isinstance(layer, FeatureSpace) or layer in ("input", "head"):
        return resolve_layer(model, layer, image=image)
    output = _output(unwrapped(model)[0], layer, image)
    leaves, structure = tree_flatten(output)
    places = [place for place, one in enumerate(leaves) if isinstance(one, Tensor) and one.is_floating_point()]
    if len(places) != 1:
        warnings.warn(
            f"'{layer}' returns {len(places)} tensors: reshape_transform is left out, and the maps of "
            "these tensors are summed",
            stacklevel=callers_level(),
        )
        return resolve_layer(model, layer, image=image)
    z = leaves[places[0]]
    order = torch.arange(z.numel(), dtype=torch.float64, device=z.device).reshape(z.shape)
    try:
        numbers, again = (
            transform(tree_unflatten([*leaves[: places[0]], probe, *leaves[places[0] + 1 :]], structure))
            for probe in (order.clone(), _second_probe(order))
        )
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
        known = resolve_layer(model, layer, image=image)
        warnings.warn(
            f"reshape_transform does not run on the output {list(z.shape)} of '{layer}' ({error}); it is left out, and "
            f"the output is read as {known.layout}",
            stacklevel=callers_level(),
        )
        return known
    return _space(layer, z, numbers, again)


def _second_probe(numbers: Tensor) -> Tensor:
    """Return other values for the same elements: negative, no integers, and in the opposite order."""
    return -numbers - 0.5


def _output(model: nn.Module, layer: str, image: Tensor) -> Any:
    kept: list[Any] = []
    copy = Replica(model, evaluate=True).module
    find_layer(copy, layer).register_forward_hook(lambda module, args, output: kept.append(output))
    noise = noise_like(image)
    with torch.no_grad():
        copy(noise)
    if not kept:
        raise ValueError(f"layer '{layer}' did not run in the forward pass; choose one that does")
    return kept[0]


def _space(layer: str, z: Tensor, numbers: Any, again: Any) -> FeatureSpace:
    if not isinstance(numbers, Tensor) or numbers.dim() != 4 or len(numbers) != 1 or len(z) != 1:
        found = list(numbers.shape) if isinstance(numbers, Tensor) else type(numbers).__name__
        raise NotARearrangement(f"reshape_transform gave {found} for {list(z.shape)}; a map is [N, C, h, w]")
    flat = numbers.flatten()
    whole = flat.long()
    rearranges = torch.equal(whole.to(flat), flat) and len(whole.unique()) == len(whole) and _within(whole, z.numel())
    # abs, relu, round and a sort leave 0, 1, 2, … as they are
    same = numbers.is_floating_point() and torch.equal(again, _second_probe(numbers.double()).to(again))
    if not rearranges or not same:
        raise NotARearrangement(
            f"reshape_transform computes with the values at '{layer}': contributions would no longer sum to the "
            "answer. Give one "
            "that only rearranges and leaves out, or none: tokens and channels-last maps are recognised"
        )
    source, size = whole.reshape(numbers.shape)[0], (numbers.shape[2], numbers.shape[3])
    for layout, positions in _layouts(z, source):
        order = positions.flatten()
        if layout in ("NCHW", "NHWC"):
            if torch.equal(order, torch.arange(len(order), device=order.device)):
                return FeatureSpace(layer=layer, layout=layout)
            continue
        prefix = int(order.min())
        length = z.shape[1 if layout == "NLC" else 2]
        if len(order) == length - prefix:
            space = FeatureSpace(layer=layer, layout=layout, prefix_tokens=prefix, grid=partial(_grid, size))
            shifted = (order - prefix).tolist()
            in_order = shifted == list(range(len(shifted)))
            return space if in_order else replace(space, to_raster=partial(_reordered, shifted))
    raise NotARearrangement(
        f"reshape_transform puts the output {list(z.shape)} of '{layer}' on a grid {list(size)} in a way that is not "
        "supported: it must move whole positions, with all channels, and may leave out leading tokens only"
    )


def _layouts(z: Tensor, source: Tensor) -> list[tuple[Layout, Tensor]]:
    """Return the layouts in which the transform moves whole positions, with the position that each cell shows.

    ``source`` is ``[C, h, w]``: the number of the element of ``z`` that each element of the map shows.
    """
    names: tuple[tuple[Layout, int], ...] = (
        (("NLC", 2), ("NCL", 1)) if z.dim() == 3 else (("NCHW", 1), ("NHWC", 3)) if z.dim() == 4 else ()
    )
    found = []
    for layout, channel_axis in names:
        index = torch.unravel_index(source, z.shape)
        channels = z.shape[channel_axis]
        wanted = torch.arange(channels, device=source.device)[:, None, None]
        if len(source) != channels or not bool((index[channel_axis] == wanted).all()):
            continue
        others = [axis for axis in range(1, z.dim()) if axis != channel_axis]
        position = index[others[0]]
        for axis in others[1:]:
            position = position * z.shape[axis] + index[axis]
        if bool((position == position[:1]).all()):
            found.append((layout, position[0]))
    return found


def _within(numbers: Tensor, count: int) -> bool:
    return bool(((numbers >= 0) & (numbers < count)).all())


def _grid(size: tuple[int, int], image_size: tuple[int, int], tokens: int) -> tuple[int, int]:
    return size


def _reordered(order: Sequence[int], cells: Tensor) -> Tensor:
    return cells[:, torch.tensor(order, device=cells.device)]
