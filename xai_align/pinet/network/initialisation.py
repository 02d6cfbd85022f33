"""Where a PiNet starts: with few detections, and logits of order one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

#: How raw maps become coefficients. "sigmoid" and "softmax" are evidence-for only, the others are signed.
Activation = Literal["sigmoid", "tanh", "identity", "softmax"]

#: The size of coefficients at the start: a scale that goes with it lets a thing that
#: covers a fiftieth of the image decide, once it is detected.
FEW = 0.02


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where the coefficients and the scale start; None leaves a value to the activation and ``z``.

    With un-normalised pixels in 80 x 80 images, the published experiment is
    ``Start(coefficient=0.5, evidence=0.5 * 0.5 * 80 * 80, bias=0, contrast=1)``: its logits start at about 1500.

    Attributes:
        coefficient: ``pi`` everywhere, but for contrast. Default: 0.02; 0 for signed activations; 0.5 for
            ``z="evidence"``, which starts as its classifier. A softmax starts at ``1 / K`` and has no choice.
        evidence: what the sum ``s * sum(pi * z)`` is for usual features. Signed activations: what it would be
            if ``pi`` were 0.02 everywhere. Default: 1. ``z="evidence"`` has no choice: the classifier's logit.
        bias: ``a``. Default: minus ``evidence`` (so that logits start at about 0); 0 for signed activations.
        contrast: what the usual random weights of the layer that makes the maps are multiplied by: how much
            coefficients differ from place to place. Default: 0.1; 1 for softmax; 0.02 for signed
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
    """A :class:`Start` with nothing left open: the raw value of maps, and the aggregator's unit."""

    raw: float
    contrast: float
    unit: float
    bias: float


def chosen_start(
    start: Start, activation: Activation, *, classes: int, typical: float, from_classifier: bool
) -> Chosen:
    """The numbers that follow from what was asked and from the head.

    Args:
        start: what was asked.
        activation: how raw maps become coefficients.
        classes: ``K``.
        typical: what the channels of ``z`` sum to at a usual position.
        from_classifier: whether ``z`` is class evidence, so that the mean of ``pi * z`` over ``pi`` is a logit.

    Raises:
        ValueError: coefficients that the activation can't have, or that evidence can't start from.
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


def start_layer(layer: nn.Module, chosen: Chosen) -> None:
    """Weights times the contrast, biases at the raw value, in the layer that makes the maps."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters(recurse=False):
            if name == "bias":
                parameter.fill_(chosen.raw)
            else:
                parameter.mul_(chosen.contrast)


def _inverse(activation: Activation, coefficient: float) -> float:
    """The raw value whose activation is the coefficient."""
    if activation == "identity":
        return coefficient
    lowest = 0 if activation == "sigmoid" else -1
    if not lowest < coefficient < 1:
        raise ValueError(f"{activation} gives values between {lowest} and 1; coefficients can't start at {coefficient}")
    return math.log(coefficient / (1 - coefficient)) if activation == "sigmoid" else math.atanh(coefficient)
