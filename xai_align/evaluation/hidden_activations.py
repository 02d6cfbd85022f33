"""Metrics of hidden layers: six perturbations, their areas, and the measures of every layer, in one pass.

Six perturbations as in FEI's evaluation: features are removed most relevant first ("deletion")
or least relevant first ("insertion", read backwards), replaced by zeros, blur and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xai_align.evaluation.curve_metric import CurveMetric
from xai_align.evaluation.faithfulness import RISE_STEPS, area
from xai_align.features.hidden_layers import MEASURES
from xai_align.features.resolve_layer import Layers
from xai_align.perturbation.curve import Curve, iterate_curves
from xai_align.perturbation.questioned import curve_values
from xai_align.perturbation.spec import Order, PerturbationSpec, steps
from xai_align.question import as_questions

FILLS = ("zero", "blur", "noise")
#: Measures scored by the area under the curve; the others by the mean over the steps, as FEI's authors do.
BY_AREA = frozenset(("active", "inactive", "correlation"))
#: Steps of the metrics that are run by name: every fourth of the 28.
FEW_STEPS = 7


@dataclass(frozen=True)
class HiddenActivationReport:
    """Areas and hidden-layer measures of the six perturbations.

    Attributes:
        layers: names of the layers, ``L``.
        perturbations: their names, e.g. ``"deletion zero"``.
        areas: ``[N, 6]``: area under the curve of the target's probability; lower is better for
            "deletion", higher for "insertion".
        measures: for each of :data:`~xai_align.features.hidden_layers.MEASURES`, ``[N, 6, L]``.

    Example::

        report = hidden_activations(model, images, images.abs(), layers=["conv1", "conv2"], num_steps=4)
        report.measures["cosine"]  # [2, 6, 2]: examples, perturbations, layers
    """

    layers: tuple[str, ...]
    perturbations: tuple[str, ...]
    areas: Tensor
    measures: dict[str, Tensor]


def six_specs(num_steps: int = RISE_STEPS) -> dict[str, PerturbationSpec]:
    """Return the perturbations {deletion, insertion} x {zero, blur, noise}, with hidden layers recorded."""
    orders: dict[str, Order] = {"deletion": "morf", "insertion": "lerf"}
    return {
        f"{game} {fill}": PerturbationSpec(fill, order, steps(num_steps), layers=True)
        for game, order in orders.items()
        for fill in FILLS
    }


def hidden_activations(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    layers: Layers | None = None,
    num_steps: int = RISE_STEPS,
    **options: Any,
) -> HiddenActivationReport:
    """Compute all measures of hidden layers and all six insertion and deletion curves in one pass.

    Args:
        forward_func: an ``nn.Module`` in eval mode that gives logits ``[N, K]``.
        inputs: images ``[N, C, H, W]``.
        attributions: in the inputs' shape, or one score for each position.
        target: a class, a :class:`~xai_align.Question`, one for each example, or None for the
            predicted class.
        layers: names of the modules to record; None: the stages that a plugin names, or that follow from the network
            (:func:`~xai_align.features.stage_layers.layers_to_record`).
        num_steps: number of steps from nothing removed to everything removed.
        **options: options of :func:`~xai_align.perturbation.iterate_curves`.

    Raises:
        ValueError: layers are not found, or inputs, attributions or options don't fit; see ``iterate_curves``.
        TargetError: the target is not understood, or the output does not have it.

    Example::

        report = hidden_activations(model, images, images.abs(), target=281, layers=["conv1", "conv2"], num_steps=4)
        dict(zip(report.perturbations, report.areas.mean(0).tolist()))  # {"deletion zero": ..., ...}
    """
    named = six_specs(num_steps)
    questions = None if target is None else as_questions(target, len(inputs))
    areas: list[Tensor] = []
    parts: list[list[Tensor]] = []
    recorded: list[tuple[str, ...]] = []
    specs = list(named.values())
    for rows, curves in iterate_curves(forward_func, inputs, attributions, specs, layers=layers, **options):
        some = questions and questions[rows]
        areas.append(torch.stack([area(curve.fractions, curve_values(curve, some)[1]) for curve in curves], 1))
        parts.append([torch.stack([over_steps(curve, measure) for curve in curves], 1) for measure in MEASURES])
        recorded.extend(curve.deviations.layers for curve in curves if curve.deviations is not None)
    measures = {measure: torch.cat([part[i] for part in parts]) for i, measure in enumerate(MEASURES)}
    return HiddenActivationReport(recorded[0], tuple(named), torch.cat(areas), measures)


def over_steps(curve: Curve, measure: str) -> Tensor:
    """Return a measure over the whole curve, ``[N, L]``; steps without a value are left out of means."""
    if curve.deviations is None:
        raise ValueError("this curve was measured without hidden layers; give PerturbationSpec(layers=True)")
    values = curve.deviations.of(measure)
    if measure not in BY_AREA:
        return values.nanmean(1)
    return torch.stack([area(curve.fractions, values[..., layer]) for layer in range(values.shape[-1])], 1)


def hidden_activation_metric(measure: str, *, num_steps: int = FEW_STEPS) -> CurveMetric:
    """Return a metric that is the mean of a measure over the layers and the six perturbations."""

    def score(curves: Sequence[Curve], target: Any) -> Tensor:
        return torch.stack([over_steps(curve, measure).nanmean(1) for curve in curves]).mean(0)

    return CurveMetric(specs=tuple(six_specs(num_steps).values()), score=score)
