"""Metrics of hidden layers, and everything about a map in one pass: six series, their areas, every layer's measures.

Six series as in FEI's evaluation: features go most relevant first ("deletion")
or least relevant first ("insertion", read backwards), into zeros, blur and noise.
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
#: Of these measures the area under the curve is taken, of the others the mean over the steps, as FEI's authors do.
BY_AREA = frozenset(("active", "inactive", "correlation"))
#: Steps of the pathway metrics that are run by name: a quarter of the 28, at the same places.
FEW_STEPS = 7


@dataclass(frozen=True)
class PathwayReport:
    """Every number of one pass.

    Attributes:
        layers: names of the layers, ``L``.
        series: names of the six series, e.g. ``"deletion zero"``.
        areas: ``[N, 6]``: area under the curve of the questioned probability; of "deletion" lower
            is better, of "insertion" higher.
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
    """{deletion, insertion} x {zero, blur, noise}, hidden layers watched."""
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
    """All pathway measures and all six insertion and deletion series, in one pass.

    Args:
        forward_func: an ``nn.Module`` in eval mode that gives logits ``[N, K]``.
        inputs: images ``[N, C, H, W]``.
        attributions: in the inputs' shape, or one score for each position.
        target: a class, a :class:`~xai_align.Question`, one for each example, or None for the
            predicted class.
        layers: names of the modules to watch; None: the stages that a plugin names.
        num_steps: how many steps from nothing removed to everything removed.
        **options: of :func:`~xai_align.perturbation.perturbation_curves`.

    Raises:
        ValueError: layers are not found, or something does not fit; see ``perturbation_curves``.
        TargetError: the target is not understood or not there.

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
    """``[N, L]``: a measure over the whole curve; steps without a value are left out of means."""
    if curve.pathways is None:
        raise ValueError("this curve was measured without hidden layers; give Series(layers=True)")
    values = curve.pathways.of(measure)
    if measure not in BY_AREA:
        return values.nanmean(1)
    return torch.stack([area(curve.fractions, values[..., layer]) for layer in range(values.shape[-1])], 1)


def pathway_metric(measure: str, *, num_steps: int = FEW_STEPS) -> CurveMetric:
    """A measure as one number: its mean over the layers and the six series."""

    def score(curves: Sequence[Curve], target: Any) -> Tensor:
        return torch.stack([over_steps(curve, measure).nanmean(1) for curve in curves]).mean(0)

    return CurveMetric(series=tuple(six_series(num_steps).values()), score=score)
