"""Inputs of a network's layers as layers that can be read out, for Captum's ``attribute_to_layer_input``."""

from __future__ import annotations

from typing import Any

from torch import nn

from xai_align.adapter_tools import Replica
from xai_align.features.routes import find_layer, layer_name
from xai_align.features.unwrapping import unwrapped


class _Given(nn.Module):
    """The identity on a layer's arguments."""

    def forward(self, given: Any) -> Any:
        return given


class _WithPlaces(nn.Module):
    """A network, and a module for the input of each of some layers, which runs in front of it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.training = network.training
        self.network = network

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.network(*inputs, **named)


def with_layer_inputs(network: nn.Module, layers: Any) -> tuple[nn.Module, Any]:
    """Return a structural copy of a network in which inputs of layers are layers, and their names.

    A layer's input is all floating-point tensors among its positional arguments, or, where it has none, among its named
    ones. The network is not changed.

    Args:
        network: the network.
        layers: a layer's module or name, or a list of them.

    Raises:
        TypeError: a layer is neither a module nor a name.
        ValueError: there is no such layer.
    """
    network = unwrapped(network)[0]
    copy = Replica(network)
    placed = _WithPlaces(copy.module)

    def place(number: int, layer: Any) -> str:
        if not isinstance(layer, str | nn.Module) or layer in ("input", "head"):
            raise TypeError(f"attribute_to_layer_input needs a layer, a module or its name, got {layer!r}")
        module = find_layer(copy.module, layer if isinstance(layer, str) else layer_name(network, layer))
        given = _Given().eval()
        name = f"input of layer {number}"
        placed.add_module(name, given)

        def before(module: nn.Module, args: Any, named: Any) -> tuple[Any, Any]:
            return (given(args), named) if args else (args, given(named))

        module.register_forward_pre_hook(before, with_kwargs=True)
        return name

    if isinstance(layers, list | tuple):
        return placed, [place(number, layer) for number, layer in enumerate(layers)]
    return placed, place(0, layers)
