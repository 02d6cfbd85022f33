"""Layers through which all evidence passes and whose outputs lie on a grid over the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xai_align import plugins
from xai_align._tools.batch_norm_gradients import ContiguousBatchNormGradients
from xai_align._tools.drawn import noise_like, normal
from xai_align._tools.logits import select_logits
from xai_align._tools.model_state import signature
from xai_align._tools.replica import Replica
from xai_align._tools.saved_copies import copying_if_overwritten
from xai_align._tools.thread_state import hides_interrupt
from xai_align.features.cell_exchanges import with_depths
from xai_align.features.cell_places import Places, places_of
from xai_align.features.dominating_nodes import dominating_nodes
from xai_align.features.first_example import first_example
from xai_align.features.grid_layer import GridLayer
from xai_align.features.module_ends import record_ends, that_run_once
from xai_align.features.moving_samplers import behind_moving_samplers
from xai_align.features.run_with_features import cloned
from xai_align.features.spatial import proportional_grid
from xai_align.hookspecs import FeatureSpace, Layout

#: Largest ratio between the aspect ratios of a grid and of the image: a network may resize the image to a square.
PROPORTIONS = 4
#: The same for a number of tokens that is the only thing known of a grid.
PROPORTIONS_OF_GUESSES = 1.34
#: Modules whose output is ``[N, C, H, W]``.
OF_MAPS = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d)
#: Standard deviation of the noise in place of parameters that are 0.
FILL = 0.1
#: Largest number of class, distillation and register tokens that may stand before or behind the patch tokens.
MOST_PREFIX_TOKENS = 16
#: Largest number of class tokens before the patch tokens if others follow them.
MOST_BEFORE_A_SUFFIX = 2


class Grids(NamedTuple):
    """Layers of a network on grids over the image.

    Attributes:
        layers: the layers, in the order in which they end.
        moved: whether, from some layer to the end, cells lie at other positions in the image than in their grid,
            because the network crops, flips or shifts the image, samples it at places that depend on it, or reorders
            cells. These layers are left out.
    """

    layers: list[GridLayer]
    moved: bool


def grid_layers(
    model: nn.Module, image: Tensor, output: str | int | None = None, extra: Sequence[Any] = ()
) -> list[GridLayer]:
    """Return the layers that cut the network and whose output is a grid, in the order in which they end.

    A layer cuts the network if every path from the input to the output passes through its output. The paths are those
    of the graph that autograd records in one pass on fixed noise, so that the result depends on the network and on the
    size of the image and not on an image, and on operations and not on the names or the library of the modules.
    Evidence that a network takes out of that graph (``detach``) is not detected here, but by
    :func:`~xai_align.pinet.cuts.is_cut`. That the grid lies over the image is tested
    (:mod:`~xai_align.features.cell_places`).

    Args:
        model: the network; a copy in eval mode is run.
        image: ``[N, C, H, W]``, used only for shape, dtype and device.
        output: which of the model's outputs are the logits.
        extra: further arguments; of tensors with ``N`` examples the first one is used.

    Returns:
        The layers, each tensor once, by the name of the outermost module that returns it; empty for a network that
        records no graph.

    Example::

        [layer.name for layer in grid_layers(model, images[:1])]  # ["conv1", "pool", "conv2"]
    """
    return list(grids(model, image, output, extra).layers)


def grids(model: nn.Module, image: Tensor, output: str | int | None = None, extra: Sequence[Any] = ()) -> Grids:
    """Return :func:`grid_layers`, and whether the network moves cells after them.

    Example::

        grids(model, images[:1]).moved  # False
    """
    known = _found.setdefault(model, {})
    extra = first_example(extra, len(image))
    of_extra = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else repr(x) for x in tree_leaves(extra))
    key = (signature(model), tuple(image.shape[1:]), image.dtype, image.device, output, of_extra)
    found = known.get(key)
    if found is None:
        found = copying_if_overwritten(lambda: _in_one_pass(model, image, output, extra))
        known.clear()  # of another state of the parameters
        known[key] = found  # another thread may clear it again
    return found


_found: WeakKeyDictionary[nn.Module, dict[Any, Grids]] = WeakKeyDictionary()


def _in_one_pass(model: nn.Module, image: Tensor, output: str | int | None, extra: Sequence[Any]) -> Grids:
    copy = Replica(model, evaluate=True).module
    _fill_zeros(copy)
    ends = record_ends(copy, _one_tensor)
    noise = noise_like(image[:1])
    with torch.inference_mode(False), torch.enable_grad():
        noise = noise.requires_grad_()
        try:
            with ContiguousBatchNormGradients():
                logits = select_logits(copy(*cloned([noise, *extra])), output)
        except Exception as error:  # it takes no single example, or writes to views, which autograd refuses
            if hides_interrupt(error):
                raise
            return Grids([], False)
        if logits.grad_fn is None:
            return Grids([], False)
        cuts = dominating_nodes(logits.grad_fn) - {logits.grad_fn}  # a dense network's output is a grid, too
        ended = [_End(name, *found) for name, found in that_run_once(ends).items() if found is not None]
        by_node = {end.node: end for end in ended if end.node in cuts}  # the module that ends last is the outermost
        found, moved = _on_grids(model, by_node.values(), noise, behind_moving_samplers(logits.grad_fn))
        return Grids(with_depths(logits, noise, found), moved)


def _fill_zeros(copy: nn.Module) -> None:
    """Put noise into the parameters of a copy that are 0 throughout, which would hide everything before them.

    Such are the scales of residual branches at the start of training.
    """
    generator = torch.Generator().manual_seed(0)
    filled: dict[int, Tensor] = {}  # parameters that modules share
    for module in copy.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_floating_point() and not bool(parameter.any()):
                if id(parameter) not in filled:
                    noise = FILL * normal(parameter.shape, generator)
                    filled[id(parameter)] = noise.to(parameter)
                module._parameters[name] = filled[id(parameter)]  # type: ignore[assignment]


class _End(NamedTuple):
    """End of a module: its output, with the node of the graph at that time, as a network may write to it later."""

    name: str
    tensor: Tensor
    node: Any


def _one_tensor(output: Any) -> tuple[Tensor, Any] | None:
    """Return the only floating tensor of a module's output with its node, None if there are others."""
    tensors = floating_parts(output)
    return (tensors[0], tensors[0].grad_fn) if len(tensors) == 1 else None


def _on_grids(
    model: nn.Module, ends: Iterable[_End], image: Tensor, moving: set[Any]
) -> tuple[list[tuple[GridLayer, Tensor]], bool]:
    """Return the layers on grids over the image, with their outputs, and whether those at the end are not.

    Of layers of the same shape, the first one is tested, where a cell depends little on others; each one if maps
    with channels first and last have the same shape. After cells at other positions, as in windows, layers are tested
    again, until cells are back at their own positions. Behind ``moving`` nodes cells lie at positions that depend on
    the image, so that a test on noise says nothing about another one.
    """
    found: list[tuple[GridLayer, Tensor]] = []
    tested: dict[Any, Places] = {}
    moved = False
    for end in ends:
        if end.node in moving:
            tested.clear()
            moved = True
            continue
        seen: set[Places] = set()
        shape = end.tensor.shape
        ambiguous = len(shape) == 4 and shape[1] == shape[2] == shape[3]
        for layer in _candidates(model, end, (image.shape[-2], image.shape[-1]), [one for one, _ in found]):
            space = layer.space
            key = (space.layout, space.prefix_tokens, space.suffix_tokens, layer.grid, shape, ambiguous and end.name)
            places = tested.get(key) or places_of(layer, end.tensor, image)
            seen.add(places)
            if places is Places.OWN or (places is Places.AROUND and not moved):
                if layer.rows <= image.shape[-2] and layer.columns <= image.shape[-1]:
                    found.append((layer, end.tensor))
                tested[key], moved = places, False
                break
        else:
            if Places.OTHER in seen:
                tested.clear()
                moved = True
    return found, moved


def _candidates(model: nn.Module, end: _End, size: tuple[int, int], before: Sequence[GridLayer]) -> Iterator[GridLayer]:
    """Yield the ways to interpret a module's output as a grid, the most probable first."""
    name, output = end.name, end.tensor
    if len(output) != 1 or output.dim() not in (3, 4):
        return
    known = known_space(model, name)
    if output.dim() == 3:
        yield from _tokens(name, output, size, before, known)
        return
    layouts: dict[Layout, tuple[int, int]] = {
        "NCHW": (output.shape[2], output.shape[3]),
        "NHWC": (output.shape[1], output.shape[2]),
    }
    first: tuple[Layout, ...] = ("NHWC", "NCHW") if known and known.layout == "NHWC" else ("NCHW", "NHWC")
    certain = isinstance(model.get_submodule(name), OF_MAPS)
    for layout in ("NCHW",) if certain else first:
        if _covers(*layouts[layout], size, PROPORTIONS, finer=certain):
            yield GridLayer(FeatureSpace(layer=name, layout=layout), *layouts[layout])


def _tokens(
    name: str, output: Tensor, size: tuple[int, int], before: Sequence[GridLayer], known: FeatureSpace | None
) -> Iterator[GridLayer]:
    """Yield grids of tokens: those of earlier layers, with or without additional tokens, and ones like the image."""
    earlier = list(dict.fromkeys(layer.grid for layer in reversed(before)))
    axes: tuple[tuple[Layout, int], ...] = (("NLC", output.shape[1]), ("NCL", output.shape[2]))
    # a plugin knows the last layers; before, there may be no class token yet
    axes = tuple((layout, count) for layout, count in axes if known is None or known.layout in ("auto", layout))
    for layout, count in axes:
        for grid in earlier:
            others = count - grid[0] * grid[1]
            if 0 <= others <= (MOST_PREFIX_TOKENS if layout == "NLC" else 0):
                for prefix in dict.fromkeys((others, *range(min(others, MOST_BEFORE_A_SUFFIX + 1)))):
                    yield _of_tokens(name, known, layout, grid, prefix, others - prefix)
    # of a number of tokens that fits no earlier grid, the grid is a guess
    for layout, count in axes:
        first = [] if known is None else [known.prefix_tokens]
        for prefix in dict.fromkeys([*first, *(range(MOST_PREFIX_TOKENS + 1) if layout == "NLC" else (0,))]):
            for grid in _grids_like(size, count - prefix):
                yield _of_tokens(name, known, layout, grid, prefix, 0)


def _of_tokens(
    name: str, known: FeatureSpace | None, layout: Layout, grid: tuple[int, int], prefix: int, suffix: int
) -> GridLayer:
    space = replace(
        known or FeatureSpace(layer=name),
        layout=layout,
        prefix_tokens=prefix,
        suffix_tokens=suffix,
        grid=GivenGrid(*grid),
    )
    return GridLayer(space, *grid)


def token_spaces(layers: Sequence[GridLayer]) -> dict[int, FeatureSpace]:
    """Return the spaces of tokens ``[N, L, C]`` on these layers' grids, by ``L``; prefix tokens come first."""
    found = {layer.tokens: layer.space for layer in layers if layer.space.layout == "NLC"}
    for rows, columns in dict.fromkeys(layer.grid for layer in layers):
        for prefix in range(MOST_PREFIX_TOKENS + 1):
            space = FeatureSpace(layer="tokens", layout="NLC", prefix_tokens=prefix, grid=GivenGrid(rows, columns))
            found.setdefault(rows * columns + prefix, space)
    return found


@dataclass(frozen=True)
class GivenGrid:
    """Grid of a number of tokens, in the form that :class:`~xai_align.FeatureSpace` needs."""

    rows: int
    columns: int

    def __call__(self, image_size: tuple[int, int], tokens: int) -> tuple[int, int]:
        """Return rows and columns; for images of another size, with more or fewer tokens, those of a similar grid."""
        known = self.rows * self.columns == tokens
        return (self.rows, self.columns) if known else proportional_grid(image_size, tokens)


def known_space(model: nn.Module, name: str) -> FeatureSpace | None:
    """Return a plugin's feature space for a layer, as a layer of the model or of the part of it that the plugin knows.

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


def _covers(rows: int, columns: int, size: tuple[int, int], proportions: float, *, finer: bool = False) -> bool:
    height, width = size
    fits = rows * columns > 1 and (finer or (rows <= height and columns <= width))
    return fits and 1 / proportions < rows * width / (columns * height) < proportions


def _grids_like(size: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Return the grid of this many cells whose proportions are the image's, if there is one."""
    height, width = size
    rows = round((count * height / width) ** 0.5) if count > 0 else 0
    grid = (rows, count // rows) if rows and count % rows == 0 else (0, 0)
    return [grid] if _covers(*grid, size, PROPORTIONS_OF_GUESSES) else []


def floating_parts(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of a module's output: a tensor, or a list, tuple or dictionary of some."""
    parts = list(output.values()) if isinstance(output, dict) else output
    parts = parts if isinstance(parts, list | tuple) else [parts]
    return [one for one in parts if isinstance(one, Tensor) and one.is_floating_point()]
