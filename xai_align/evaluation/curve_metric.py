"""Metrics that are pure functions of perturbation curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xai_align.perturbation.curve import Curve, iterate_curves
from xai_align.perturbation.spec import PerturbationSpec
from xai_align.question import as_questions


@dataclass(frozen=True, kw_only=True)
class CurveMetric:
    """Metric computed from perturbation curves: the perturbations to measure and the score. It is callable as a metric.

    Code that runs several metrics can measure all their perturbations in one pass and
    pass each metric its curves.

    Attributes:
        specs: the perturbations to measure.
        score: ``score(curves, target)`` gives ``[N]`` from the curves of these perturbations, in their order.

    Example::

        half = PerturbationSpec("mean", "morf", (0.5,))  # the more relevant half of the pixels is replaced by the mean
        metric = CurveMetric(specs=(half,), score=lambda curves, target: curve_values(curves[0], target)[1][:, 0])
        metric(model, images, images.abs(), target=281)  # [2], probability of class 281
    """

    specs: tuple[PerturbationSpec, ...]
    score: Callable[[Sequence[Curve], Any], Tensor]

    def __call__(
        self,
        forward_func: Callable[..., Tensor],
        inputs: Tensor,
        attributions: Tensor,
        *,
        target: Any = None,
        **options: Any,
    ) -> Tensor:
        """Compute one value for each example, ``[N]``, float32 or wider.

        Args:
            forward_func: gives logits ``[N, K]``.
            inputs: ``[N, D]``, ``[N, L, C]`` (tokens) or ``[N, C, H, W]``.
            attributions: in the inputs' shape, or one score for each position.
            target: a class, a :class:`~xai_align.Question`, one for each example, or None for the
                predicted class.
            **options: options of :func:`~xai_align.perturbation.iterate_curves`.

        Raises:
            ValueError: inputs, attributions or options don't fit; see ``iterate_curves``.
            TargetError: the target is not understood, or the output does not have it.
            MetricDoesNotApply: the metric is not defined for this form of question.
        """
        questions = None if target is None else as_questions(target, len(inputs))
        values = [
            self.score(curves, questions and questions[rows])
            for rows, curves in iterate_curves(forward_func, inputs, attributions, self.specs, **options)
        ]
        return torch.cat(values)
