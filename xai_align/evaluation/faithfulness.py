"""Faithfulness: does the answer go with what the map calls important?

Each metric is a pure function of perturbation curves, and a function of model,
inputs and attributions that measures them. ``p`` is the questioned probability
(:mod:`xai_align.evaluation.questioned`), by default that of the predicted class.

RISE: Petsiuk et al. 2018. AOPC: Samek et al. 2017. ERASER: DeYoung et al. 2020.
ROAD: Rong et al. 2022. FEI: Zhang & McMillan, arXiv 2509.04588. Decision flip
and rank deletion: as in Huang et al., arXiv 2310.11207.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from xai_align.evaluation.correlation import kendall, spearman
from xai_align.evaluation.curve import Curve
from xai_align.evaluation.curve_metric import CurveMetric
from xai_align.evaluation.questioned import curve_values
from xai_align.evaluation.ranking import positions_of
from xai_align.evaluation.series import TENTHS, Order, Series
from xai_align.question import as_questions

#: RISE: 28 steps, of 1792 pixels each for 224 x 224.
RISE_STEPS = 28
#: ERASER's shares of the input.
ERASER_BINS = (0.01, 0.05, 0.1, 0.2, 0.5)
#: ROAD's shares of the input, as in pytorch-grad-cam: tenths.
ROAD_BINS = TENTHS

#: "rise": insertion from blur, deletion to zeros. "fei": zeros in both, or any fill for both.
Preset = Literal["rise", "fei"]
_FILLS: dict[str, dict[str, Any]] = {
    "rise": {"insertion": "blur", "deletion": 0.0},
    "fei": {"insertion": 0.0, "deletion": 0.0},
}


def steps(count: int) -> tuple[float, ...]:
    """``0, 1/n, ..., 1``."""
    if count < 1:
        raise ValueError(f"{count} steps were asked for; give at least one")
    return tuple(step / count for step in range(count + 1))


def area(fractions: Tensor, values: Tensor) -> Tensor:
    """Trapezoid area ``[N]`` of ``values [N, F]`` over increasing ``fractions [F]``."""
    widths = (fractions[1:] - fractions[:-1]).to(values)
    return ((values[:, 1:] + values[:, :-1]) / 2 * widths).sum(1)


def _area_of(curves: Sequence[Curve], target: Any) -> Tensor:
    """Whether one inserts or deletes, the area over ``[0, 1]`` is that of the curve."""
    (curve,) = curves
    return area(curve.fractions, curve_values(curve, target)[1])


def insertion_metric(*, preset: Preset = "rise", baselines: Any = None, num_steps: int = RISE_STEPS) -> CurveMetric:
    """Insertion: what is inserted first is removed last, so the curve is that of removing the least relevant first."""
    return CurveMetric(series=(_game("insertion", preset, baselines, num_steps),), score=_area_of)


def deletion_metric(*, preset: Preset = "rise", baselines: Any = None, num_steps: int = RISE_STEPS) -> CurveMetric:
    """Deletion: the most relevant is removed first."""
    return CurveMetric(series=(_game("deletion", preset, baselines, num_steps),), score=_area_of)


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
    """Area under the curve of ``p`` while features are inserted, the most relevant first; ``[N]``, higher is better.

    Args:
        forward_func: gives logits ``[N, K]``.
        inputs: ``[N, C, H, W]`` (other inputs need ``baselines``).
        attributions: in the inputs' shape, or one score for each position.
        target: a class, a :class:`~xai_align.Question`, one for each example, or None for the class
            that ``forward_func`` predicts.
        preset: "rise": 28 steps from an image blurred with an 11 x 11 Gaussian of sigma 5, zeros beyond
            the border. "fei": 28 steps from zeros.
        baselines: what to insert into, instead of the preset's.
        num_steps: how many steps, instead of the preset's.
        transfer_to: a second network on the same inputs that judges in place of the first, about the
            same classes.
        **options: of :func:`~xai_align.evaluation.perturbation_curves`, e.g. ``feature_mask``.

    Raises:
        ValueError: something does not fit; see ``perturbation_curves``.
        TargetError: the target is not understood or not there.
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
    """Area under the curve of ``p`` while features are deleted, the most relevant first; ``[N]``, lower is better.

    Arguments as in :func:`insertion`; both presets delete to zeros.
    """
    metric = deletion_metric(preset=preset, baselines=baselines, num_steps=num_steps)
    return _judged(metric, forward_func, inputs, attributions, target, transfer_to, options)


def removal_metric(*, order: Order, baselines: Any = 0.0, num_steps: int = RISE_STEPS) -> CurveMetric:
    """MoRF or LeRF: the area under the curve while features go in this order."""
    return CurveMetric(series=(Series(baselines, order, steps(num_steps)),), score=_area_of)


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
    """MoRF ("morf", lower is better) or LeRF ("lerf", higher is better): area under ``p`` while features go; ``[N]``.

    Arguments as in :func:`insertion`.
    """
    metric = removal_metric(order=order, baselines=baselines, num_steps=num_steps)
    return metric(forward_func, inputs, attributions, target=target, **options)


def comprehensiveness_of(curve: Curve, target: Any = None) -> Tensor:
    """ERASER's ``p(x) - p(x without the top k)``, mean over the curve's fractions (AOPC); ``[N]``, higher is better."""
    clean, masked = curve_values(curve, target)
    return (clean[:, None] - masked).mean(1)


def sufficiency_of(curve: Curve, target: Any = None) -> Tensor:
    """ERASER's ``p(x) - p(only the top k)``, mean over the curve's fractions (AOPC); ``[N]``, lower is better.

    The curve removes the least relevant first: ``1 - k`` of it.
    """
    return comprehensiveness_of(curve, target)


def comprehensiveness_metric(*, bins: Sequence[float] = ERASER_BINS, baselines: Any = 0.0) -> CurveMetric:
    """Removing the top ``bins``; ERASER's by default."""
    return CurveMetric(series=(Series(baselines, "morf", tuple(bins)),), score=_only(comprehensiveness_of))


def sufficiency_metric(*, bins: Sequence[float] = ERASER_BINS, baselines: Any = 0.0) -> CurveMetric:
    """Keeping only the top ``bins``; ERASER's by default."""
    removed = tuple(1 - k for k in bins)
    return CurveMetric(series=(Series(baselines, "lerf", removed),), score=_only(sufficiency_of))


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
    """Mean fall of ``p`` when the top ``bins`` are removed; ``[N]``, higher is better.

    With ``bins=L``, a number, the top ``0/L, 1/L, ..., L/L`` are removed. Other arguments as in :func:`insertion`.
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
    """Mean fall of ``p`` when only the top ``bins`` are kept; ``[N]``, lower is better.

    Arguments as in :func:`comprehensiveness`.
    """
    metric = sufficiency_metric(bins=_bins(bins), baselines=baselines)
    return metric(forward_func, inputs, attributions, target=target, **options)


def aopc_metric(*, bins: Sequence[float] = ERASER_BINS, baselines: Any = 0.0) -> CurveMetric:
    """Comprehensiveness less sufficiency over the same bins: what the top features take along, and leave behind."""
    removed = comprehensiveness_metric(bins=bins, baselines=baselines).series
    kept = sufficiency_metric(bins=bins, baselines=baselines).series

    def score(curves: Sequence[Curve], target: Any) -> Tensor:
        without, alone = curves
        return comprehensiveness_of(without, target) - sufficiency_of(alone, target)

    return CurveMetric(series=(*removed, *kept), score=score)


def road_metric(*, bins: Sequence[float] = ROAD_BINS, baselines: Any = "noisy_linear") -> CurveMetric:
    """ROAD combined: ``(p(least relevant removed) - p(most relevant removed)) / 2``, mean over the bins."""

    def score(curves: Sequence[Curve], target: Any) -> Tensor:
        morf, lerf = (curve_values(curve, target)[1] for curve in curves)
        return ((lerf - morf) / 2).mean(1)

    return CurveMetric(
        series=(Series(baselines, "morf", tuple(bins)), Series(baselines, "lerf", tuple(bins))), score=score
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
    """ROAD combined, with noisy linear imputation; ``[N]``, higher is better. Arguments as in :func:`insertion`."""
    metric = road_metric(bins=bins, baselines=baselines)
    return metric(forward_func, inputs, attributions, target=target, **options)


def flip_fraction_of(curve: Curve) -> Tensor:
    """DFFrac: the smallest share removed at which the predicted class changes; ``[N]``, lower is better.

    1 if it never does.
    """
    flipped = _flipped(curve)
    first = flipped.float().argmax(1)
    fraction = torch.where(flipped.any(1), curve.fractions.to(first.device)[first], 1.0)
    return torch.where(_has_values(curve), fraction, torch.nan)


def flip_at_first_of(curve: Curve) -> Tensor:
    """DFMIT: 1 where removing the first of the curve's fractions changes the predicted class, else 0; ``[N]``."""
    return torch.where(_has_values(curve), _flipped(curve)[:, 0].double(), torch.nan)


def rank_deletion_of(
    curve: Curve, target: Any = None, *, method: Literal["spearman", "kendall"] = "spearman"
) -> Tensor:
    """RankDel: rank correlation of scores with the fall of ``p`` when each feature is removed alone; ``[N]``.

    The curve is of order "single". NaN where nothing varies.
    """
    assert curve.scores is not None
    clean, masked = curve_values(curve, target)
    correlate = {"spearman": spearman, "kendall": kendall}[method]
    scores = curve.scores.to(masked)
    return torch.stack([_correlated(correlate, s, c - m) for s, c, m in zip(scores, clean, masked, strict=True)])


def decision_flip_metric(*, grid: tuple[int, int] | None = (7, 7), baselines: Any = 0.0) -> CurveMetric:
    """DFFrac over the cells of a grid."""
    cells = grid[0] * grid[1] if grid else 20
    series = Series(baselines, "morf", steps(cells)[1:], grid)
    return CurveMetric(series=(series,), score=lambda curves, target: flip_fraction_of(curves[0]))


def most_informative_flip_metric(*, grid: tuple[int, int] = (7, 7), baselines: Any = 0.0) -> CurveMetric:
    """DFMIT of the most relevant cell of a grid."""
    series = Series(baselines, "morf", steps(grid[0] * grid[1])[1:2], grid)
    return CurveMetric(series=(series,), score=lambda curves, target: flip_at_first_of(curves[0]))


def rank_deletion_metric(*, grid: tuple[int, int] = (7, 7), baselines: Any = 0.0) -> CurveMetric:
    """RankDel over the cells of a grid."""
    series = Series(baselines, "single", steps(grid[0] * grid[1])[1:], grid)
    return CurveMetric(series=(series,), score=_only(rank_deletion_of))


def decision_flip(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    kind: Literal["mit", "fraction"] = "fraction",
    grid: tuple[int, int] | None = None,
    feature_mask: Tensor | None = None,
    baselines: Any = 0.0,
    **options: Any,
) -> Tensor:
    """Does removing the most relevant change the decision? ``[N]``.

    Args:
        kind: "mit": 1 if removing the most informative feature does, else 0, higher is better. "fraction":
            the smallest share of features that does, 1 if none, lower is better.
        grid: features are the cells of such a grid.
        feature_mask: features are the regions of these labels; neither: positions, all of them one by one.
        (others as in :func:`insertion`)
    """

    def metric(count: int) -> CurveMetric:
        fractions = steps(count)[1:2] if kind == "mit" else steps(count)[1:]
        score = flip_at_first_of if kind == "mit" else flip_fraction_of
        series = Series(baselines, "morf", fractions, grid)
        return CurveMetric(series=(series,), score=lambda curves, target: score(curves[0]))

    return _feature_by_feature(metric, forward_func, inputs, attributions, feature_mask, grid, options)


def rank_deletion(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    method: Literal["spearman", "kendall"] = "spearman",
    grid: tuple[int, int] | None = None,
    feature_mask: Tensor | None = None,
    baselines: Any = 0.0,
    **options: Any,
) -> Tensor:
    """RankDel: do scores rank features as removing each alone does? ``[N]``, in [-1, 1], higher is better.

    One forward pass for each feature; see :func:`decision_flip` for what a feature is.
    """

    def metric(count: int) -> CurveMetric:
        series = Series(baselines, "single", steps(count)[1:], grid)
        return CurveMetric(
            series=(series,), score=lambda curves, asked: rank_deletion_of(curves[0], asked, method=method)
        )

    options = {**options, "target": target}
    return _feature_by_feature(metric, forward_func, inputs, attributions, feature_mask, grid, options)


def _feature_by_feature(
    metric: Callable[[int], CurveMetric],
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    feature_mask: Tensor | None,
    grid: tuple[int, int] | None,
    options: dict[str, Any],
) -> Tensor:
    """A metric whose fractions are one feature each; examples with other numbers of features go by themselves."""
    counts = _feature_counts(inputs, feature_mask, grid)
    if len(set(counts)) == 1:
        return metric(counts[0])(forward_func, inputs, attributions, feature_mask=feature_mask, **options)
    assert feature_mask is not None
    target = options.pop("target", None)
    questions = [None] * len(inputs) if target is None else as_questions(target, len(inputs))
    values = [
        metric(count)(
            forward_func,
            inputs[n : n + 1],
            attributions[n : n + 1],
            feature_mask=feature_mask[n : n + 1],
            target=questions[n],
            **options,
        )
        for n, count in enumerate(counts)
    ]
    return torch.cat(values)


def _game(name: str, preset: str, baselines: Any, num_steps: int) -> Series:
    if preset not in _FILLS:
        raise ValueError(f"there is no preset '{preset}'; known: {', '.join(_FILLS)}")
    fill = _FILLS[preset][name] if baselines is None else baselines
    return Series(fill, "lerf" if name == "insertion" else "morf", steps(num_steps))


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
        with torch.no_grad():  # the class that is explained is the first network's
            target = forward_func(inputs).flatten(1).argmax(1)
    judge = forward_func if transfer_to is None else transfer_to
    return metric(judge, inputs, attributions, target=target, **options)


def _only(score: Callable[[Curve, Any], Tensor]) -> Callable[[Sequence[Curve], Any], Tensor]:
    return lambda curves, target: score(curves[0], target)


def _bins(bins: Sequence[float] | int) -> tuple[float, ...]:
    return steps(bins) if isinstance(bins, int) else tuple(bins)


def _flipped(curve: Curve) -> Tensor:
    """``[N, F]``: whether another class is the likeliest; with one output, whether ``p`` crosses a half."""
    if curve.clean.shape[1] == 1:
        return (curve.masked[..., 0] > 0.5) != (curve.clean > 0.5)
    return curve.masked.argmax(2) != curve.clean.argmax(1)[:, None]


def _has_values(curve: Curve) -> Tensor:
    return curve.masked.isfinite().flatten(1).all(1)


def _correlated(correlate: Callable[[Tensor, Tensor], Tensor], scores: Tensor, falls: Tensor) -> Tensor:
    known = scores.isfinite()
    return correlate(scores[known][None], falls[None, : int(known.sum())])[0]


def _feature_counts(inputs: Tensor, feature_mask: Tensor | None, grid: tuple[int, int] | None) -> list[int]:
    """How many features each example has."""
    if grid is not None:
        return [grid[0] * grid[1]] * len(inputs)
    if feature_mask is None:
        return [prod(positions_of(inputs.shape))] * len(inputs)
    batch = feature_mask.dim() > len(positions_of(inputs.shape)) and len(feature_mask) == len(inputs)
    if not batch:
        return [len(feature_mask.unique())] * len(inputs)
    return [len(mask.unique()) for mask in feature_mask]
