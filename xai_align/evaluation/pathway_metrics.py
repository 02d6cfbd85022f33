"""Metrics of hidden layers: six series of perturbations, their areas, and the measures of every layer, in one pass.

Six series as in FEI's evaluation: features are removed most relevant first ("deletion")
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
from xai_align.perturbation.curve import Curve, walk_curves
from xai_align.perturbation.questioned import curve_values
from xai_align.perturbation.series import Order, Series, steps
from xai_align.question import as_questions

FILLS = ("zero", "blur", "noise")
#: Measures scored by the area under the curve; the others by the mean over the steps, as FEI's authors do.
BY_AREA = frozenset(("active", "inactive", "correlation"))
#: Steps of the pathway metrics that are run by name: every fourth of the 28.
FEW_STEPS = 7


@dataclass(frozen=True)
class PathwayReport:
    """Areas and hidden-layer measures of the six series.

    Attributes:
        layers: names of the layers, ``L``.
        series: names of the six series, e.g. ``"deletion zero"``.
        areas: ``[N, 6]``: area under the curve of the target's probability; lower is better for
            "deletion", higher for "insertion".
        measures: for each of :data:`~xai_align.features.hidden_layers.MEASURES`, ``[N, 6, L]``.

    Example::

        report = pathways(model, images, images.abs(), layers=["conv1", "conv2"], num_steps=4)
        report.measures["cosine"]  # [2, 6, 2]: examples, series, layers
    """

    layers: tuple[str, ...]
    series: tuple[str, ...]
    areas: Tensor
    measures: dict[str, Tensor]


def six_series(num_steps: int = RISE_STEPS) -> dict[str, Series]:
    """Return the series {deletion, insertion} x {zero, blur, noise}, with hidden layers recorded."""
    orders: dict[str, Order] = {"deletion": "morf", "insertion": "lerf"}
    return {
        f"{game} {fill}": Series(fill, order, steps(num_steps), layers=True)
        for game, order in orders.items()
        for fill in FILLS
    }


def pathways(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    layers: Layers | None = None,
    num_steps: int = RISE_STEPS,
    **options: Any,
) -> PathwayReport:
    """Compute all pathway measures and all six insertion and deletion series in one pass.

    Args:
        forward_func: an ``nn.Module`` in eval mode that gives logits ``[N, K]``.
        inputs: images ``[N, C, H, W]``.
        attributions: in the inputs' shape, or one score for each position.
        target: a class, a :class:`~xai_align.Question`, one for each example, or None for the
            predicted class.
        layers: names of the modules to record; None: the stages that a plugin names.
        num_steps: number of steps from nothing removed to everything removed.
        **options: options of :func:`~xai_align.perturbation.perturbation_curves`.

    Raises:
        ValueError: layers are not found, or inputs, attributions or options don't fit; see ``perturbation_curves``.
        TargetError: the target is not understood, or the output does not have it.

    Example::

        report = pathways(model, images, images.abs(), target=281, layers=["conv1", "conv2"], num_steps=4)
        dict(zip(report.series, report.areas.mean(0).tolist()))  # {"deletion zero": ..., ...}
    """
    named = six_series(num_steps)
    questions = None if target is None else as_questions(target, len(inputs))
    areas: list[Tensor] = []
    parts: list[list[Tensor]] = []
    watched: list[tuple[str, ...]] = []

    def consume(rows: list[int], curves: list[Curve]) -> None:
        some = questions and [questions[row] for row in rows]
        areas.append(torch.stack([area(curve.fractions, curve_values(curve, some)[1]) for curve in curves], 1))
        parts.append([torch.stack([over_steps(curve, measure) for curve in curves], 1) for measure in MEASURES])
        watched.extend(curve.pathways.layers for curve in curves if curve.pathways is not None)

    walk_curves(consume, forward_func, inputs, attributions, list(named.values()), layers=layers, **options)
    measures = {measure: torch.cat([part[i] for part in parts]) for i, measure in enumerate(MEASURES)}
    return PathwayReport(watched[0], tuple(named), torch.cat(areas), measures)


def over_steps(curve: Curve, measure: str) -> Tensor:
    """Return a measure over the whole curve, ``[N, L]``; steps without a value are left out of means."""
    if curve.pathways is None:
        raise ValueError("this curve was measured without hidden layers; give Series(layers=True)")
    values = curve.pathways.of(measure)
    if measure not in BY_AREA:
        return values.nanmean(1)
    return torch.stack([area(curve.fractions, values[..., layer]) for layer in range(values.shape[-1])], 1)


def pathway_metric(measure: str, *, num_steps: int = FEW_STEPS) -> CurveMetric:
    """Return a metric that is the mean of a measure over the layers and the six series."""

    def score(curves: Sequence[Curve], target: Any) -> Tensor:
        return torch.stack([over_steps(curve, measure).nanmean(1) for curve in curves]).mean(0)

    return CurveMetric(series=tuple(six_series(num_steps).values()), score=score)
