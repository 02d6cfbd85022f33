"""Resolution of layers: from a name, a module, a feature space, or None for the default, to a feature space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from xai_align import plugins
from xai_align._tools.drawn import noise_like
from xai_align._tools.logits import select_logits
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import hides_interrupt, restores_thread_state
from xai_align.features.grid_layer import GridLayer
from xai_align.features.grid_layers import OF_MAPS, floating_parts, grid_layers, known_space, token_spaces
from xai_align.features.head_input import HEAD, head_input
from xai_align.features.last_map import last_map
from xai_align.features.last_token_layer import last_token_layer
from xai_align.features.module_ends import module_ends, record_ends, that_run_once
from xai_align.features.routes import find_layer, layer_name
from xai_align.features.unwrapping import network_of
from xai_align.hookspecs import FeatureSpace

#: One layer, as a caller may specify it. None: the default for the purpose.
Layer: TypeAlias = str | nn.Module | FeatureSpace | None
#: Name by which plugins know the layer where evidence enters a network of tokens.
EMBEDDING = "patch embedding"
#: Several layers, e.g. those whose activations are compared.
Layers: TypeAlias = Sequence[str | nn.Module | FeatureSpace]
#: "readout": contributions are read there. "gradient": a feature map is weighted by its gradient, as in Grad-CAM.
#: "map": the same, for maps that are used in training.
Purpose = Literal["readout", "gradient", "map"]


@restores_thread_state
def resolve_layer(
    model: nn.Module,
    layer: Layer = None,
    *,
    purpose: Purpose = "readout",
    image: Tensor | None = None,
    output: str | int | None = None,
) -> FeatureSpace:
    """Return the feature space of ``layer``, or the default for a purpose.

    Defaults: "readout" is the layer that a plugin names, else the head's input. "gradient" and "map" are the head's
    input where a plugin knows the network, or, for one with a class token, the last tokens that still affect the
    answer; in other networks the last such tokens of a transformer, or else, for "gradient", the output of the last
    ``Conv2d``, and for "map" the last feature map (``layer4`` of a ResNet).

    Args:
        model: the network; compiled, data-parallel, retrofitted and question models are unwrapped. For a
            retrofitted one the default is its own feature space.
        layer: a dotted name, ``"input"``, ``"head"`` (:func:`~xai_align.features.head_input.head_input`), a module
            of the model, a :class:`~xai_align.FeatureSpace`, or None.
        purpose: selects the default.
        image: ``[1, C, H, W]``, used only for shape, dtype and device; needed for ``"head"`` and for defaults,
            which may run the network once on noise.
        output: which of the model's outputs are the logits.

    Raises:
        ValueError: there is no such layer (the message lists those there are), or no default.
        TypeError: ``layer`` is not a single layer.

    Example::

        resolve_layer(model, "conv2").layer  # "conv2"
    """
    if purpose not in get_args(Purpose):
        raise ValueError(f"purpose is {purpose!r}; it is one of {', '.join(map(repr, get_args(Purpose)))}")
    inner, own = network_of(model)
    layer = own if layer is None else layer
    if isinstance(layer, FeatureSpace):
        return layer
    if layer is not None:
        return _named(inner, layer, image, output)
    known = plugins.feature_space(inner) or plugins.feature_space(inner, HEAD)
    if purpose == "readout":
        return known or head_input(inner, image, output)
    known = known or plugins.feature_space(inner, EMBEDDING)
    if known is not None and known.split is not None:
        return known
    if image is None:
        raise TypeError(f"the default layer for {purpose!r} is found by a pass; give image=, of shape [1, C, H, W]")
    if known is not None:
        return last_token_layer(inner, image) or known
    found = last_map(inner, image) if purpose == "map" else None
    maps = _convolutions(inner, image) if found is None else [str(found.layer)]
    return _last_tokens_after(maps, inner, image) or found or last_convolution(inner, image)


def _last_tokens_after(maps: Sequence[str], model: nn.Module, image: Tensor) -> FeatureSpace | None:
    """Return the last tokens that affect the answer, if they come after the last of these layers, else None."""
    tokens = last_token_layer(model, image)
    if tokens is None or not maps:
        return tokens
    names = [name for name, _ in module_ends(model, [noise_like(image)], lambda output: None)]
    return tokens if names.index(str(tokens.layer)) > names.index(maps[-1]) else None


def layer_names(model: Any, layers: Layers | None) -> list[str] | None:
    """Return the names of layers given as names, modules or feature spaces; None stays None.

    Raises:
        ValueError: a module is not part of the model.
        TypeError: ``layers`` is not a list of layers.

    Example::

        layer_names(model, ["conv1", model.conv2])  # ["conv1", "conv2"]
    """
    if layers is None:
        return None
    if isinstance(layers, str | nn.Module) or not isinstance(layers, list | tuple):
        raise TypeError(f"layers are {type(layers).__name__}; give a list of names, modules or feature spaces")
    inner, _ = network_of(model)
    found: list[str] = []
    for one in layers:
        if isinstance(one, FeatureSpace):
            names: Any = one.layer
        else:
            names = layer_name(inner, one) if isinstance(one, nn.Module) else one
        if not isinstance(names, str | tuple):
            raise _no_layer(one)
        found += [names] if isinstance(names, str) else names
    return found


def last_convolution(model: nn.Module, image: Tensor | None = None) -> FeatureSpace:
    """Return the output of the last ``Conv2d``; with an image, the last that runs once and that the output depends on.

    Without an image, the last is the one that is defined last.

    Raises:
        ValueError: there is none.
    """
    names = _convolutions(model, image)
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no Conv2d and no plugin knows it; say where to look with layer=..."
        )
    return FeatureSpace(layer=names[-1], layout="NCHW")


def _convolutions(model: nn.Module, image: Tensor | None) -> list[str]:
    """Return the names of convolutions, with an image in execution order.

    Those of branches that do not run or reach the output are left out, if a pass shows it.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if image is None or len(names) < 2:
        return names
    copy = Replica(model, evaluate=True, inplace=False).module
    ends = record_ends(copy, lambda output: output)
    noise = noise_like(image[:1])
    with torch.inference_mode(False), torch.enable_grad():
        try:
            logits = select_logits(copy(noise.requires_grad_().clone()))
            once = {name: output for name, output in that_run_once(ends).items() if name in names}
            gradients = torch.autograd.grad(logits.sum(), list(once.values()), allow_unused=True)
        except Exception as error:  # it takes no single example, or has no gradient
            if hides_interrupt(error):
                raise
            return [name for name in that_run_once(ends) if name in names] or names
    return [name for name, gradient in zip(once, gradients, strict=True) if gradient is not None] or names


def _named(model: nn.Module, layer: Any, image: Tensor | None, output: str | int | None) -> FeatureSpace:
    name = layer_name(model, layer) if isinstance(layer, nn.Module) else layer
    if not isinstance(name, str):
        raise _no_layer(layer)
    if name == "input":
        return FeatureSpace(layer="input", layout="NCHW")
    if name == HEAD:
        return head_input(model, image, output)
    head = plugins.feature_space(model, HEAD)
    if head is not None and head.layer == name:
        return head  # also if a plugin's name for it is not that of a module
    module = find_layer(model, name)
    known = known_space(model, name)
    no_tokens = image is None or image.dim() != 4 or not image.is_floating_point() or isinstance(module, OF_MAPS)
    if known is not None or no_tokens:
        return known or FeatureSpace(layer=name)
    assert image is not None
    # the number of class tokens of a network that no plugin knows
    layers = grid_layers(model, image, output)
    same = next((one.space for one in layers if one.name == name), None)
    return same or _tokens_like(model, name, layers, image) or FeatureSpace(layer=name)


def _tokens_like(model: nn.Module, name: str, layers: Sequence[GridLayer], image: Tensor) -> FeatureSpace | None:
    """Return the space of a layer beside the path that all evidence takes, with as many tokens as a layer on it."""
    shapes: list[Any] = []

    def remember(module: nn.Module, args: Any, output: Any) -> None:
        shapes.extend(part.shape for part in floating_parts(output))

    copy = Replica(model, evaluate=True).module
    find_layer(copy, name).register_forward_hook(remember)
    noise = noise_like(image[:1])
    try:
        with torch.no_grad():
            copy(noise)
    except Exception as error:  # the pass that reads the layer tells of it
        if hides_interrupt(error):
            raise
        return None
    if len(shapes) != 1 or len(shapes[0]) != 3:
        return None
    like = token_spaces([one for one in layers if one.space.layout == "NLC"]).get(shapes[0][1])
    return None if like is None else replace(like, layer=name, split=None)


def _no_layer(given: Any) -> TypeError:
    return TypeError(
        f"one layer is asked for here, got {given!r}; give a layer's name, its module or a FeatureSpace. "
        "Tensors that are to be cut jointly go into one FeatureSpace(layer=('a', 'b'))"
    )
