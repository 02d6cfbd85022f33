"""Initialisation of a PiNet: with few detections, and logits of order one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from xai_align._tools.thread_state import restores_thread_state

#: Map from raw maps to coefficients. "sigmoid" and "softmax" are non-negative, the others are signed.
Activation = Literal["sigmoid", "tanh", "identity", "softmax"]

#: Initial size of coefficients. With the matching scale, an object that covers a fiftieth
#: of the image determines the class once it is detected.
FEW = 0.02


@dataclass(frozen=True, kw_only=True)
class Start:
    """Initial coefficients and scale; None: the default for the activation and ``z``.

    With un-normalised pixels in 80 x 80 images, the published experiment is
    ``Start(coefficient=0.5, evidence=0.5 * 0.5 * 80 * 80, bias=0, contrast=1)``: its logits start at about 1500.

    Attributes:
        coefficient: ``pi`` at every position, apart from contrast. Default: 0.02; 0 for signed activations; 0.5 for
            ``z="evidence"``, which starts as its classifier. A softmax always starts at ``1 / K``.
        evidence: the sum ``s * sum(pi * z)`` for typical features. Signed activations: its value if ``pi`` were
            0.02 everywhere. Default: 1. For ``z="evidence"`` it is always the classifier's logit.
        bias: ``a``. Default: minus ``evidence`` (so that logits start at about 0); 0 for signed activations.
        contrast: the factor on the default random weights of the layer that outputs the maps, which sets how much
            coefficients differ between positions. Default: 0.1; 1 for softmax; 0.02 for signed
            activations; 0 for ``z="evidence"``.

    Example::

        head = SecondLookHead((8, 16, 32), 5, start=Start(coefficient=0.1, contrast=1))
    """

    coefficient: float | None = None
    evidence: float | None = None
    bias: float | None = None
    contrast: float | None = None


@dataclass(frozen=True)
class Chosen:
    """Resolved :class:`Start`: the raw value of maps, and the aggregator's unit."""

    raw: float
    contrast: float
    unit: float
    bias: float


def chosen_start(
    start: Start, activation: Activation, *, classes: int, typical: float, from_classifier: bool
) -> Chosen:
    """Return the initial values that follow from ``start`` and the head.

    Args:
        start: the requested start.
        activation: the map from raw maps to coefficients.
        classes: ``K``.
        typical: the sum of the channels of ``z`` at a typical position.
        from_classifier: whether ``z`` is class evidence, so that the mean of ``pi * z`` over ``pi`` is a logit.

    Raises:
        ValueError: the activation cannot give the coefficient, or the evidence cannot start from it.
    """
    signed = activation in ("tanh", "identity")
    usual = 0.5 if from_classifier else 0.0 if signed else FEW
    pi = 1 / classes if activation == "softmax" else usual if start.coefficient is None else start.coefficient
    if from_classifier:
        if pi <= 0:
            raise ValueError(f"coefficients start at {pi}; evidence can start as its classifier only from pi > 0")
        unit, bias, contrast = 1 / pi, 0.0, 0.0
    else:
        evidence = 1.0 if start.evidence is None else start.evidence
        unit = evidence / (typical * (pi if pi > 0 else FEW))
        bias, contrast = (0.0, FEW) if signed else (-evidence, 1.0 if activation == "softmax" else 0.1)
    return Chosen(
        raw=0.0 if activation == "softmax" else _inverse(activation, pi),
        contrast=contrast if start.contrast is None else start.contrast,
        unit=unit,
        bias=bias if start.bias is None else start.bias,
    )


@restores_thread_state
def start_layer(layer: nn.Module, chosen: Chosen) -> None:
    """Multiply weights by the contrast and set biases to the raw value, in the layer that outputs the maps."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters(recurse=False):
            if name == "bias":
                parameter.fill_(chosen.raw)
            else:
                parameter.mul_(chosen.contrast)


def _inverse(activation: Activation, coefficient: float) -> float:
    """Return the raw value whose activation is the coefficient."""
    if activation == "identity":
        return coefficient
    lowest = 0 if activation == "sigmoid" else -1
    if not lowest < coefficient < 1:
        raise ValueError(f"{activation} gives values between {lowest} and 1; coefficients can't start at {coefficient}")
    return math.log(coefficient / (1 - coefficient)) if activation == "sigmoid" else math.atanh(coefficient)
