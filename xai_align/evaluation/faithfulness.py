"""Faithfulness: the effect on the answer of removing or keeping the features that the map ranks highest.

Each metric is a pure function of perturbation curves, and a function of model,
inputs and attributions that measures them. ``p`` is the target's probability
(:mod:`xai_align.perturbation.questioned`), by default that of the predicted class.

RISE: Petsiuk et al. 2018. AOPC: Samek et al. 2017. ERASER: DeYoung et al. 2020.
ROAD: Rong et al. 2022. FEI: Zhang & McMillan, arXiv 2509.04588.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from xai_align._tools.checks import check_choice, check_integer
from xai_align._tools.logits import select_logits
from xai_align._tools.model_state import check_evaluation_mode
from xai_align._tools.thread_state import restores_thread_state
from xai_align.evaluation.curve_metric import CurveMetric
from xai_align.features.run_with_features import cloned
from xai_align.perturbation.curve import Curve
from xai_align.perturbation.questioned import curve_values
from xai_align.perturbation.spec import TENTHS, Order, PerturbationSpec, steps
from xai_align.pinet.input_checks import forward_arguments

#: RISE: 28 steps, of 1792 pixels each for 224 x 224.
RISE_STEPS = 28
#: ERASER's shares of the input.
ERASER_BINS = (0.01, 0.05, 0.1, 0.2, 0.5)
#: ROAD's shares of the input, as in pytorch-grad-cam: tenths.
ROAD_BINS = TENTHS

#: "rise": insertion from blur, deletion to zeros. "fei": zeros in both, unless ``baselines`` is given.
Preset = Literal["rise", "fei"]
_FILLS: dict[str, dict[str, Any]] = {
    "rise": {"insertion": "blur", "deletion": 0.0},
    "fei": {"insertion": 0.0, "deletion": 0.0},
}


def area(fractions: Tensor, values: Tensor) -> Tensor:
    """Return the trapezoid area ``[N]`` of ``values [N, F]`` over increasing ``fractions [F]``."""
    widths = (fractions[1:] - fractions[:-1]).to(values)
    return ((values[:, 1:] + values[:, :-1]) / 2 * widths).sum(1)


def _area_of(curves: Sequence[Curve], target: Any) -> Tensor:
    """Return the area under the curve; over ``[0, 1]`` it is the same for insertion and removal."""
    (curve,) = curves
    return area(curve.fractions, curve_values(curve, target)[1])


def insertion_metric(*, preset: Preset = "rise", baselines: Any = None, num_steps: int = RISE_STEPS) -> CurveMetric:
    """Return insertion: inserting the most relevant first is removing the least relevant first, read backwards."""
    return CurveMetric(specs=(_game("insertion", preset, baselines, num_steps),), score=_area_of)


def deletion_metric(*, preset: Preset = "rise", baselines: Any = None, num_steps: int = RISE_STEPS) -> CurveMetric:
    """Return deletion: the most relevant features are removed first."""
    return CurveMetric(specs=(_game("deletion", preset, baselines, num_steps),), score=_area_of)


def insertion(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    preset: Preset = "rise",
    baselines: Any = None,
    num_steps: int = RISE_STEPS,
    transfer_to: Callable[..., Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """Compute the area under ``p`` while features are inserted, most relevant first; ``[N]``, higher is better.

    Args:
        forward_func: gives logits ``[N, K]``.
        inputs: ``[N, C, H, W]`` (other inputs need ``baselines``).
        attributions: in the inputs' shape, or one score for each position.
        target: a class, a :class:`~xai_align.Question`, one for each example, or None for the class
            that ``forward_func`` predicts.
        preset: "rise": 28 steps from an image blurred with an 11 x 11 Gaussian of sigma 5, zero-padded.
            "fei": 28 steps from zeros.
        baselines: the fill to insert into, instead of the preset's.
        num_steps: number of steps, instead of the preset's.
        transfer_to: a second network with the same inputs and classes, whose probabilities are measured in
            place of the first one's.
        **options: options of :func:`~xai_align.perturbation.iterate_curves`, e.g. ``feature_mask``.

    Raises:
        ValueError: inputs, attributions or options don't fit; see ``iterate_curves``.
        TargetError: the target is not understood, or the output does not have it.

    Example::

        insertion(model, images, images.abs(), target=281)  # [2], higher is better
    """
    metric = insertion_metric(preset=preset, baselines=baselines, num_steps=num_steps)
    return _judged(metric, forward_func, inputs, attributions, target, transfer_to, options)


def deletion(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    preset: Preset = "rise",
    baselines: Any = None,
    num_steps: int = RISE_STEPS,
    transfer_to: Callable[..., Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """Compute the area under ``p`` while features are deleted, most relevant first; ``[N]``, lower is better.

    Arguments as in :func:`insertion`; both presets delete to zeros.

    Example::

        deletion(model, images, images.abs(), target=281)  # [2], lower is better
    """
    metric = deletion_metric(preset=preset, baselines=baselines, num_steps=num_steps)
    return _judged(metric, forward_func, inputs, attributions, target, transfer_to, options)


def removal_metric(*, order: Order, baselines: Any = 0.0, num_steps: int = RISE_STEPS) -> CurveMetric:
    """Return MoRF or LeRF: the area under the curve while features are removed in this order."""
    return CurveMetric(specs=(PerturbationSpec(baselines, order, steps(num_steps)),), score=_area_of)


def removal(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    order: Order,
    target: Any = None,
    baselines: Any = 0.0,
    num_steps: int = RISE_STEPS,
    **options: Any,
) -> Tensor:
    """Compute MoRF ("morf", lower is better) or LeRF ("lerf", higher is better): area under ``p`` by removal; ``[N]``.

    Arguments as in :func:`insertion`.

    Example::

        morf = removal(model, images, images.abs(), order="morf", baselines="mean")  # [2]
        lerf = removal(model, images, images.abs(), order="lerf", baselines="mean")
        lerf - morf  # higher is better
    """
    metric = removal_metric(order=order, baselines=baselines, num_steps=num_steps)
    return metric(forward_func, inputs, attributions, target=target, **options)


def comprehensiveness_of(curve: Curve, target: Any = None) -> Tensor:
    """Return ERASER's ``p(x) - p(x without the top k)``, averaged over the curve's fractions (AOPC).

    ``[N]``, higher is better.
    """
    clean, masked = curve_values(curve, target)
    return (clean[:, None] - masked).mean(1)


def sufficiency_of(curve: Curve, target: Any = None) -> Tensor:
    """Return ERASER's ``p(x) - p(only the top k)``, averaged over the curve's fractions (AOPC).

    ``[N]``, lower is better. The curve removes the share ``1 - k``, least relevant first.
    """
    return comprehensiveness_of(curve, target)


def comprehensiveness_metric(*, bins: Sequence[float] = ERASER_BINS, baselines: Any = 0.0) -> CurveMetric:
    """Return comprehensiveness: the top ``bins`` are removed; ERASER's by default."""
    return CurveMetric(specs=(PerturbationSpec(baselines, "morf", tuple(bins)),), score=_only(comprehensiveness_of))


def sufficiency_metric(*, bins: Sequence[float] = ERASER_BINS, baselines: Any = 0.0) -> CurveMetric:
    """Return sufficiency: only the top ``bins`` are kept; ERASER's by default."""
    removed = tuple(1 - k for k in bins)
    return CurveMetric(specs=(PerturbationSpec(baselines, "lerf", removed),), score=_only(sufficiency_of))


def comprehensiveness(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    bins: Sequence[float] | int = ERASER_BINS,
    baselines: Any = 0.0,
    **options: Any,
) -> Tensor:
    """Compute the mean drop of ``p`` when the top ``bins`` are removed; ``[N]``, higher is better.

    With ``bins=L``, a number, the top ``0/L, 1/L, ..., L/L`` are removed. Other arguments as in :func:`insertion`.

    Example::

        comprehensiveness(model, images, images.abs(), bins=(0.1, 0.5))  # [2], higher is better
    """
    metric = comprehensiveness_metric(bins=_bins(bins), baselines=baselines)
    return metric(forward_func, inputs, attributions, target=target, **options)


def sufficiency(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    bins: Sequence[float] | int = ERASER_BINS,
    baselines: Any = 0.0,
    **options: Any,
) -> Tensor:
    """Compute the mean drop of ``p`` when only the top ``bins`` are kept; ``[N]``, lower is better.

    Arguments as in :func:`comprehensiveness`.

    Example::

        sufficiency(model, images, images.abs(), bins=(0.1, 0.5))  # [2], lower is better
    """
    metric = sufficiency_metric(bins=_bins(bins), baselines=baselines)
    return metric(forward_func, inputs, attributions, target=target, **options)


def aopc_metric(*, bins: Sequence[float] = ERASER_BINS, baselines: Any = 0.0) -> CurveMetric:
    """Return comprehensiveness minus sufficiency over the same bins."""
    removed = comprehensiveness_metric(bins=bins, baselines=baselines).specs
    kept = sufficiency_metric(bins=bins, baselines=baselines).specs

    def score(curves: Sequence[Curve], target: Any) -> Tensor:
        without, alone = curves
        return comprehensiveness_of(without, target) - sufficiency_of(alone, target)

    return CurveMetric(specs=(*removed, *kept), score=score)


def road_metric(*, bins: Sequence[float] = ROAD_BINS, baselines: Any = "noisy_linear") -> CurveMetric:
    """Return ROAD combined: ``(p(least relevant removed) - p(most relevant removed)) / 2``, mean over the bins."""

    def score(curves: Sequence[Curve], target: Any) -> Tensor:
        morf, lerf = (curve_values(curve, target)[1] for curve in curves)
        return ((lerf - morf) / 2).mean(1)

    return CurveMetric(
        specs=(PerturbationSpec(baselines, "morf", tuple(bins)), PerturbationSpec(baselines, "lerf", tuple(bins))),
        score=score,
    )


def road(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    bins: Sequence[float] = ROAD_BINS,
    baselines: Any = "noisy_linear",
    **options: Any,
) -> Tensor:
    """Compute ROAD combined, with noisy linear imputation; ``[N]``, higher is better.

    Arguments as in :func:`insertion`.

    Example::

        road(model, images, images.abs(), target=281, bins=(0.2, 0.5, 0.8))  # [2], higher is better
    """
    metric = road_metric(bins=bins, baselines=baselines)
    return metric(forward_func, inputs, attributions, target=target, **options)


def _game(name: str, preset: str, baselines: Any, num_steps: int) -> PerturbationSpec:
    fill = _FILLS[check_choice("preset", preset, _FILLS)][name] if baselines is None else baselines
    return PerturbationSpec(fill, "lerf" if name == "insertion" else "morf", steps(num_steps))


@restores_thread_state
def _judged(
    metric: CurveMetric,
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    target: Any,
    transfer_to: Callable[..., Tensor] | None,
    options: dict[str, Any],
) -> Tensor:
    if transfer_to is not None and target is None:
        check_evaluation_mode(forward_func)
        extra = forward_arguments(options.get("additional_forward_args"))
        with torch.no_grad():  # the explained class is the one that the first network predicts
            target = select_logits(forward_func(*cloned([inputs, *extra]))).reshape(len(inputs), -1).argmax(1)
    judge = forward_func if transfer_to is None else transfer_to
    return metric(judge, inputs, attributions, target=target, **options)


def _only(score: Callable[[Curve, Any], Tensor]) -> Callable[[Sequence[Curve], Any], Tensor]:
    return lambda curves, target: score(curves[0], target)


def _bins(bins: Sequence[float] | int) -> tuple[float, ...]:
    return tuple(bins) if isinstance(bins, Iterable) else steps(check_integer("bins", bins))
