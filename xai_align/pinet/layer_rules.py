"""Rules and treatment of biases that the options of a layer's readout stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from xai_align.features.grid_layers import Grids, token_spaces
from xai_align.pinet.gates.flowing_attention import flowing_attention_rules
from xai_align.pinet.gates.gamma_rule import gamma_rules
from xai_align.pinet.gates.placed_biases import BiasesApart, PlacedBiases
from xai_align.pinet.gates.residual_rule import residual_rules
from xai_align.pinet.gates.rule_registry import Rule
from xai_align.pinet.readout_layers import ReadoutLayer
from xai_align.pinet.request import image_size


def rules_of(layer: ReadoutLayer) -> Mapping[Any, Rule]:
    """Return the rules that replace the frozen gates' own."""
    of_units = gamma_rules(layer.gamma, layer.classifier) if layer.rule == "gamma" else {}
    of_attention = flowing_attention_rules() if layer.attention == "flowing" else {}
    return {**of_units, **residual_rules(layer.residual), **of_attention}


def biases_of(layer: ReadoutLayer, inputs: Sequence[Tensor], find: Callable[[], Grids]) -> BiasesApart:
    """Return a new object that handles the biases of one pass.

    Args:
        layer: the layer with its options.
        inputs: the model's inputs.
        find: finds the network's layers on grids, where biases are placed.

    Raises:
        ValueError: biases have no position in these inputs or in this network.
    """
    if layer.biases == "apart":
        return BiasesApart()
    size = image_size(inputs)
    if size is None:
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        raise ValueError(
            f"biases have no position in inputs that are not images [N, C, H, W] ({shapes}); use biases='apart'"
        )
    found = find()
    if found.moved:
        raise ValueError(
            "the network crops, pads, flips or shifts the image, or reorders cells, so that biases after that have no "
            "known position in it; use biases='apart', or do that before the network and explain the changed image"
        )
    return PlacedBiases(len(inputs[0]), size, partial(token_spaces, found.layers))
