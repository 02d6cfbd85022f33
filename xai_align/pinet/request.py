"""Arguments of a readout, after they were checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import nn

from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.network.pseudo_linear import PseudoLinear
from xai_align.pinet.readout_layers import ReadoutLayer
from xai_align.question import Question


@dataclass(frozen=True)
class Request:
    """Arguments of a readout.

    Attributes:
        model: the network, which is run and never changed.
        layers: the layers, with their rules and treatment of biases.
        spaces: the feature spaces of the layers.
        inputs: the model's inputs.
        extra: further arguments of the model.
        questions: one for each example.
        output: which of the model's outputs are the logits.
    """

    model: nn.Module
    layers: Sequence[ReadoutLayer]
    spaces: Sequence[FeatureSpace]
    inputs: Sequence[Any]
    extra: Sequence[Any]
    questions: Sequence[Question]
    output: str | int | None = None


def image_size(inputs: Sequence[Any]) -> tuple[int, int] | None:
    """Return rows and columns of the input, or None if it is not a batch of images."""
    return (inputs[0].shape[-2], inputs[0].shape[-1]) if len(inputs) == 1 and inputs[0].dim() == 4 else None


def is_own_decomposition(model: nn.Module, layer: ReadoutLayer) -> TypeGuard[PseudoLinear]:
    """Return whether the readout of this layer is the network's own sum."""
    return isinstance(model, PseudoLinear) and layer.feature_space is None
