"""Agreement of a map with the effect of removing features one by one.

Decision flip and rank deletion as in Huang et al., arXiv 2310.11207, where features are words; here they are
regions, cells of a grid, tokens or pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from xai_align._tools.batches import rows_of
from xai_align._tools.checks import check_choice
from xai_align._tools.correlation import kendall, spearman
from xai_align.evaluation.curve_metric import CurveMetric
from xai_align.perturbation.curve import Curve
from xai_align.perturbation.questioned import curve_values
from xai_align.perturbation.ranking import positions_of
from xai_align.perturbation.spec import PerturbationSpec, steps
from xai_align.pinet.input_checks import forward_arguments
from xai_align.question import as_questions


def flip_fraction_of(curve: Curve) -> Tensor:
    """Return DFFrac: the smallest share removed at which the predicted class changes; ``[N]``, lower is better.

    1 if it never does.
    """
    flipped = _flipped(curve)
    first = flipped.float().argmax(1)
    fraction = torch.where(flipped.any(1), curve.fractions.to(first.device)[first], 1.0)
    return torch.where(_has_values(curve), fraction, torch.nan)


def flip_at_first_of(curve: Curve) -> Tensor:
    """Return DFMIT: 1 where removing the curve's first fraction changes the predicted class, else 0; ``[N]``."""
    return torch.where(_has_values(curve), _flipped(curve)[:, 0].double(), torch.nan)


def rank_deletion_of(
    curve: Curve, target: Any = None, *, method: Literal["spearman", "kendall"] = "spearman"
) -> Tensor:
    """Return RankDel: rank correlation of scores with the drop of ``p`` when each feature is removed alone; ``[N]``.

    The curve is of order "single". NaN where the scores or the drops are constant.
    """
    assert curve.scores is not None
    clean, masked = curve_values(curve, target)
    known = {"spearman": spearman, "kendall": kendall}
    correlate = known[check_choice("method", method, known)]
    scores = curve.scores.to(masked)
    return torch.stack([_correlated(correlate, s, c - m) for s, c, m in zip(scores, clean, masked, strict=True)])


def decision_flip_metric(*, grid: tuple[int, int] | None = (7, 7), baselines: Any = 0.0) -> CurveMetric:
    """Return DFFrac over the cells of a grid."""
    return _flip_metric("fraction", prod(grid) if grid else 20, grid, baselines)


def most_informative_flip_metric(*, grid: tuple[int, int] = (7, 7), baselines: Any = 0.0) -> CurveMetric:
    """Return DFMIT of the most relevant cell of a grid."""
    return _flip_metric("mit", prod(grid), grid, baselines)


def rank_deletion_metric(*, grid: tuple[int, int] = (7, 7), baselines: Any = 0.0) -> CurveMetric:
    """Return RankDel over the cells of a grid."""
    return _rank_metric("spearman", prod(grid), grid, baselines)


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
    """Test whether removing the most relevant features changes the predicted class; ``[N]``.

    Args:
        kind: "mit": 1 if removing the most important feature changes it, else 0, higher is better. "fraction":
            the smallest share of features that changes it, 1 if none does, lower is better.
        grid: rows and columns of a grid whose cells are the features.
        feature_mask: integer labels of the regions that are the features. With neither, each position is one.

    The other arguments are those of :func:`~xai_align.evaluation.insertion`.

    Example::

        decision_flip(model, images, images.abs(), grid=(4, 4))  # [2], share of 16 cells, lower is better
    """
    metric = partial(_flip_metric, kind, grid=grid)
    return _feature_by_feature(metric, forward_func, inputs, attributions, feature_mask, grid, baselines, options)


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
    """Compute RankDel, the rank correlation of scores with the effect of removing each feature alone.

    ``[N]``, in [-1, 1], higher is better. One forward pass for each feature; see :func:`decision_flip` for
    ``grid`` and ``feature_mask``.

    Example::

        rank_deletion(model, images, images.abs(), target=281, grid=(4, 4))  # [2], Spearman's rho
    """
    metric = partial(_rank_metric, method, grid=grid)
    options = {**options, "target": target}
    return _feature_by_feature(metric, forward_func, inputs, attributions, feature_mask, grid, baselines, options)


def single_deletion(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    method: Literal["spearman", "kendall"] = "spearman",
    grid: tuple[int, int] = (4, 4),
    baselines: Any = "mean",
    internal_batch_size: int | None = None,
    **options: Any,
) -> Tensor:
    """Compute the rank correlation of a map's sums over patches with the drop of the logit without each patch; ``[N]``.

    :func:`rank_deletion` of the answer in logits, on a 4 x 4 grid, each patch replaced by the image's mean of each
    channel. In [-1, 1], higher is better; NaN where the map has the same sum in all patches, or their removal
    changes the answer by the same amount.

    Hesse et al. (NeurIPS 2024, "Benchmarking the Attribution Quality of Vision Models") measure it on networks that
    were trained on images with patches deleted, and call it IDSDS. This is the same measure for the unchanged
    network, for which an image without a patch may be out of distribution: values are not comparable with theirs.

    Args:
        forward_func: gives logits ``[N, K]``; an ``nn.Module`` must be in eval mode.
        inputs: images ``[N, C, H, W]``.
        attributions: in the inputs' shape, or one score for each pixel.
        target: a class, a :class:`~xai_align.Question`, one for each example, or None for the predicted class.
        method: "spearman" or "kendall".
        grid: rows and columns of the grid of patches.
        baselines: replacement of a patch, as in :func:`~xai_align.perturbation.perturbation_curve`.
        internal_batch_size: number of perturbed inputs in one forward pass.
        **options: further options of :func:`~xai_align.perturbation.iterate_curves`.

    Raises:
        ValueError: inputs, attributions or options don't fit; see ``iterate_curves``.
        TargetError: the target is not understood, or the output does not have it.

    Example::

        single_deletion(model, images, images.abs(), target=281)  # [2], Spearman's rho over 16 patches
    """
    # activation None: the curve's values are logits, and the fall is that of the answer
    options = {"activation": None, "internal_batch_size": internal_batch_size, **options}
    return rank_deletion(
        forward_func, inputs, attributions, target=target, method=method, grid=grid, baselines=baselines, **options
    )


def _flip_metric(
    kind: Literal["mit", "fraction"], features: int, grid: tuple[int, int] | None, baselines: Any
) -> CurveMetric:
    check_choice("kind", kind, ("mit", "fraction"))
    fractions = steps(features)[1:2] if kind == "mit" else steps(features)[1:]
    score = flip_at_first_of if kind == "mit" else flip_fraction_of
    spec = PerturbationSpec(baselines, "morf", fractions, grid)
    return CurveMetric(specs=(spec,), score=lambda curves, target: score(curves[0]))


def _rank_metric(
    method: Literal["spearman", "kendall"], features: int, grid: tuple[int, int] | None, baselines: Any
) -> CurveMetric:
    spec = PerturbationSpec(baselines, "single", steps(features)[1:], grid)
    return CurveMetric(specs=(spec,), score=lambda curves, target: rank_deletion_of(curves[0], target, method=method))


def _feature_by_feature(
    metric: Callable[..., CurveMetric],
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    feature_mask: Tensor | None,
    grid: tuple[int, int] | None,
    baselines: Any,
    options: dict[str, Any],
) -> Tensor:
    """Run a metric with one feature per fraction; one example at a time if their numbers of features differ."""
    counts = _feature_counts(inputs, feature_mask, grid)
    if len(set(counts)) == 1:
        measure = metric(counts[0], baselines=baselines)
        return measure(forward_func, inputs, attributions, feature_mask=feature_mask, **options)
    target = options.pop("target", None)
    questions = [None] * len(inputs) if target is None else as_questions(target, len(inputs))
    extra = forward_arguments(options.pop("additional_forward_args", None))
    values = []
    for n, count in enumerate(counts):
        here = slice(n, n + 1)
        x, maps, mask, fill, *further = rows_of(
            (inputs, attributions, feature_mask, baselines, *extra), here, len(inputs)
        )
        one = metric(count, baselines=fill)
        values.append(
            one(
                forward_func,
                x,
                maps,
                feature_mask=mask,
                target=questions[n],
                additional_forward_args=tuple(further),
                **options,
            )
        )
    return torch.cat(values)


def _flipped(curve: Curve) -> Tensor:
    """Return ``[N, F]``: whether another class is the most probable; with one output, whether ``p`` crosses 0.5."""
    if curve.clean.shape[1] == 1:
        return (curve.masked[..., 0] > 0.5) != (curve.clean > 0.5)
    return curve.masked.argmax(2) != curve.clean.argmax(1)[:, None]


def _has_values(curve: Curve) -> Tensor:
    return curve.masked.isfinite().flatten(1).all(1)


def _correlated(correlate: Callable[[Tensor, Tensor], Tensor], scores: Tensor, falls: Tensor) -> Tensor:
    known = scores.isfinite()
    return correlate(scores[known][None], falls[None, : int(known.sum())])[0]


def _feature_counts(inputs: Tensor, feature_mask: Tensor | None, grid: tuple[int, int] | None) -> list[int]:
    """Return the number of features of each example."""
    if grid is not None:
        return [grid[0] * grid[1]] * len(inputs)
    if feature_mask is None:
        return [prod(positions_of(inputs.shape))] * len(inputs)
    batch = feature_mask.dim() > len(positions_of(inputs.shape)) and len(feature_mask) == len(inputs)
    if not batch:
        return [len(feature_mask.unique())] * len(inputs)
    return [len(mask.unique()) for mask in feature_mask]
