"""Metrics that can be run by name; `xai-align methods` lists them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from xai_align.evaluation.agreement import Scored, agreement_with_scores
from xai_align.evaluation.completeness import completeness_error, completeness_error_from_zeros, completeness_gap
from xai_align.evaluation.curve_metric import CurveMetric
from xai_align.evaluation.cwox import cauc, cdrop, salient_fraction
from xai_align.evaluation.faithfulness import (
    aopc_metric,
    comprehensiveness_metric,
    deletion_metric,
    insertion_metric,
    removal_metric,
    road_metric,
    sufficiency_metric,
)
from xai_align.evaluation.feature_by_feature import (
    decision_flip_metric,
    most_informative_flip_metric,
    rank_deletion_metric,
    single_deletion,
)
from xai_align.evaluation.grid_pointing_metric import grid_pointing_metric
from xai_align.evaluation.hidden_activations import hidden_activation_metric
from xai_align.evaluation.intersection_over_union import iou_at_best_threshold
from xai_align.evaluation.localisation import pointing_game, positive_mass
from xai_align.evaluation.question_forms import (
    class_and_rest,
    contrast_classes,
    counted_from_zero,
    group_classes,
    group_contrast,
)
from xai_align.evaluation.randomisation import parameter_randomisation
from xai_align.evaluation.rfxg import ccs, cgc, cgs, pgs
from xai_align.evaluation.salient_regions import verbal_coverage
from xai_align.evaluation.soft_masks import average_drop, average_increase
from xai_align.evaluation.symmetric_relevance_gain import symmetric_relevance_gain
from xai_align.hookspecs import MetricSpec, OutputKind
from xai_align.perturbation.curve import Curve, perturbation_curve
from xai_align.perturbation.questioned import questions_of
from xai_align.perturbation.ranking import tie_rate
from xai_align.perturbation.spec import PerturbationSpec, steps
from xai_align.plugins import stages
from xai_align.question import Question

#: RFxG removes tenths, replaced by zeros.
_TENTHS = (PerturbationSpec(),)


def _by_question(take_apart: Callable[[Question], Any], score: Callable[..., Tensor], **variant: Any) -> CurveMetric:
    """Return an RFxG score of the two sides of each question: ``score(curve, sides, other sides)``."""

    def score_of(curves: Sequence[Curve], target: Any) -> Tensor:
        (curve,) = curves
        sides = [take_apart(question) for question in _questions_of(curve, target)]
        return score(curve, *map(list, zip(*sides, strict=True)), **variant)

    return CurveMetric(specs=_TENTHS, score=score_of)


def _questions_of(curve: Curve, target: Any) -> list[Question]:
    """Return the question of each example, with classes counted from 0."""
    return [counted_from_zero(question, curve.clean.shape[1]) for question in questions_of(curve, target)]


def _one_group(question: Question) -> tuple[tuple[int, ...]]:
    return (group_classes(question),)


#: Options of the authors' published code.
_PUBLISHED = {"variant": "published", "group_reduce": "mean"}


def _contrast_along(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    target: Any,
    internal_batch_size: int | None,
) -> tuple[Curve, list[tuple[int, ...]], list[tuple[int, ...]], Tensor]:
    """Return CWOX's curve of deletion to the mean pixel, the two sides of each question, and the salient fractions."""
    curve = perturbation_curve(
        forward_func,
        inputs,
        attributions,
        fractions=steps(20),
        baselines="mean",
        internal_batch_size=internal_batch_size,
    )
    targets, foils = zip(*map(_two_sides, _questions_of(curve, target)), strict=True)
    return curve, list(targets), list(foils), salient_fraction(attributions)


def _two_sides(question: Question) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if len(question.targets) > 1:
        return group_contrast(question)
    targets, foils = class_and_rest(question)
    return (targets,), foils


def contrastive_area(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    internal_batch_size: int | None = None,
) -> Tensor:
    """Compute CWOX's CAUC of the questions' two sides; ``[N]``, lower is better; see :func:`~.cwox.cauc`."""
    curve, targets, foils, salient = _contrast_along(forward_func, inputs, attributions, target, internal_batch_size)
    return cauc(curve, targets, foils, salient=salient)


def contrastive_drop(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    internal_batch_size: int | None = None,
) -> Tensor:
    """Compute CWOX's CDROP of the questions' two sides; ``[N]``, higher is better; see :func:`~.cwox.cdrop`."""
    curve, targets, foils, salient = _contrast_along(forward_func, inputs, attributions, target, internal_batch_size)
    return cdrop(curve, targets, foils, salient=salient)


def _pointing(forward_func: Any, inputs: Tensor, attributions: Tensor, *, target: Any = None, masks: Tensor) -> Tensor:
    return pointing_game(attributions, masks)


def _mass(forward_func: Any, inputs: Tensor, attributions: Tensor, *, target: Any = None, masks: Tensor) -> Tensor:
    return positive_mass(attributions, masks)


def _iou(forward_func: Any, inputs: Tensor, attributions: Tensor, *, target: Any = None, masks: Tensor) -> Tensor:
    return iou_at_best_threshold(attributions, masks)


def _randomisation(
    forward_func: nn.Module,
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    explain_model: Callable[[nn.Module, Tensor, Any], Tensor],
) -> Tensor:
    """Compute parameter randomisation by stages from the top, or by layers if no plugin knows the stages."""
    layers = stages(forward_func)[::-1] or None
    return parameter_randomisation(forward_func, inputs, explain_model, target=target, layers=layers).mean()


def _coverage(forward_func: Any, inputs: Tensor, attributions: Tensor, *, target: Any = None) -> Tensor:
    return verbal_coverage(attributions)


#: Share of the cells that agreement with scores from outside counts as the most important.
TOP_CELLS = 0.25
_MEASURES = {
    "fa": "share of the top quarter of cells that scores from outside have, too",
    "ra": "share of the top quarter of ranks with the same cell in scores from outside",
    "sa": "agreement_fa that counts cells of equal sign only",
    "sra": "agreement_ra that counts cells of equal sign only",
    "pra": "share of the pairs of cells in the same order in scores from outside",
    "rc": "rank correlation of cells with scores from outside",
    "iou": "overlap of the top quarters of cells",
}


def _agreement(measure: str) -> Callable[..., Tensor]:
    def evaluate(
        forward_func: Any, inputs: Tensor, attributions: Tensor, *, target: Any = None, scores: Sequence[Scored]
    ) -> Tensor:
        return agreement_with_scores(attributions, scores, measure=measure, share=TOP_CELLS)

    return evaluate


def _ties(forward_func: Any, inputs: Tensor, attributions: Tensor, *, target: Any = None) -> Tensor:
    return tie_rate(attributions)


def _metric(
    name: str,
    evaluate: Callable[..., Tensor],
    better: Literal["higher", "lower", "neither"],
    summary: str,
    kinds: tuple[OutputKind, ...] = (),
) -> MetricSpec:
    higher = {"higher": True, "lower": False, "neither": None}[better]
    return MetricSpec(name=name, evaluate=evaluate, higher_is_better=higher, summary=summary, output_kinds=kinds)


#: Outputs one of which is the predicted class; outputs of which several can be contrasted; those with probabilities.
_PREDICTED: tuple[OutputKind, ...] = ("classes",)
_SEVERAL: tuple[OutputKind, ...] = ("classes", "multi-label")
_PROBABILITIES: tuple[OutputKind, ...] = ("classes", "one logit", "multi-label")


METRICS: list[MetricSpec] = [
    _metric("insertion", insertion_metric(), "higher", "RISE: area under p while pixels return to a blurred image"),
    _metric("deletion", deletion_metric(), "lower", "RISE: area under p while pixels go to zero"),
    _metric("insertion_fei", insertion_metric(preset="fei"), "higher", "FEI: insertion into zeros"),
    _metric("insertion_noise", insertion_metric(baselines="noise"), "higher", "FEI: insertion into noise"),
    _metric("deletion_blur", deletion_metric(baselines="blur"), "lower", "FEI: deletion to a blurred image"),
    _metric("deletion_noise", deletion_metric(baselines="noise"), "lower", "FEI: deletion to noise"),
    _metric("morf", removal_metric(order="morf", baselines="mean"), "lower", "most relevant first, to the mean"),
    _metric("lerf", removal_metric(order="lerf", baselines="mean"), "higher", "least relevant first, to the mean"),
    _metric("road", road_metric(), "higher", "ROAD: (least - most relevant first) / 2, noisy linear imputation"),
    _metric("srg", symmetric_relevance_gain, "higher", "SRG: area in logits, least less most relevant patches first"),
    _metric("comprehensiveness", comprehensiveness_metric(), "higher", "ERASER: drop of p without the top 1 … 50 %"),
    _metric("sufficiency", sufficiency_metric(), "lower", "ERASER: drop of p with only the top 1 … 50 %"),
    _metric("aopc", aopc_metric(), "higher", "comprehensiveness less sufficiency"),
    _metric(
        "decision_flip",
        decision_flip_metric(),
        "lower",
        "share of a 7 x 7 grid whose removal changes the class",
        _PREDICTED,
    ),
    _metric(
        "first_flip",
        most_informative_flip_metric(),
        "higher",
        "1 if removing the top cell of 7 x 7 changes the class",
        _PREDICTED,
    ),
    _metric("rank_deletion", rank_deletion_metric(), "higher", "rank correlation with removing each of 7 x 7 cells"),
    _metric("single_deletion", single_deletion, "higher", "rank correlation with the logit's drop by each of 4 x 4"),
    _metric("average_drop", average_drop, "lower", "drop of p with the map as a soft mask, as a share", _PROBABILITIES),
    _metric("average_increase", average_increase, "higher", "1 if p rises with the map as a soft mask", _PROBABILITIES),
    _metric("completeness_gap", completeness_gap, "lower", "difference of the answer and the map's sum plus bias"),
    _metric(
        "completeness_error", completeness_error, "lower", "difference of the answer and the map's sum plus constant"
    ),
    _metric(
        "completeness_error_from_zeros",
        completeness_error_from_zeros,
        "lower",
        "difference of answer(x) - answer(zeros) and the map's sum",
    ),
    _metric(
        "hidden_deviation", hidden_activation_metric("relative"), "lower", "relative squared change of hidden layers"
    ),
    _metric(
        "hidden_active", hidden_activation_metric("active"), "higher", "share of active hidden units that stay active"
    ),
    _metric(
        "hidden_inactive",
        hidden_activation_metric("inactive"),
        "higher",
        "share of inactive hidden units that stay inactive",
    ),
    _metric("hidden_mse", hidden_activation_metric("mse"), "lower", "mean squared change of hidden units, unscaled"),
    _metric("hidden_correlation", hidden_activation_metric("correlation"), "higher", "correlation of hidden layers"),
    _metric("hidden_cosine", hidden_activation_metric("cosine"), "higher", "cosine of hidden layers"),
    _metric("ccs", _by_question(contrast_classes, ccs), "higher", "RFxG: A falls and B rises", _SEVERAL),
    _metric(
        "cgc", _by_question(class_and_rest, cgc), "higher", "RFxG: A falls and the rest of its group rises", _SEVERAL
    ),
    _metric("pgs", _by_question(_one_group, pgs), "higher", "RFxG: the group falls", _SEVERAL),
    _metric("cgs", _by_question(group_contrast, cgs), "higher", "RFxG: one group falls and another rises", _SEVERAL),
    _metric(
        "ccs_published",
        _by_question(contrast_classes, ccs, variant="published"),
        "lower",
        "CCS as in the released code",
        _SEVERAL,
    ),
    _metric(
        "cgc_published",
        _by_question(class_and_rest, cgc, **_PUBLISHED),
        "neither",
        "CGC as in the released code, no contrast",
        _SEVERAL,
    ),
    _metric(
        "pgs_published",
        _by_question(_one_group, pgs, group_reduce="mean"),
        "higher",
        "PGS as in the released code, mean",
        _SEVERAL,
    ),
    _metric(
        "cgs_published",
        _by_question(group_contrast, cgs, **_PUBLISHED),
        "neither",
        "CGS as in the released code, no contrast",
        _SEVERAL,
    ),
    _metric(
        "cauc", contrastive_area, "lower", "CWOX: area under the contrast as the salient part is removed", _PREDICTED
    ),
    _metric(
        "cdrop", contrastive_drop, "higher", "CWOX: drop of the contrast with the salient part removed", _PREDICTED
    ),
    _metric("pointing_game", _pointing, "higher", "1 if the maximum lies on the object (15 pixels tolerance)"),
    _metric(
        "grid_pointing_game", grid_pointing_metric(2), "higher", "of 2 x 2 images: evidence in its own", _PREDICTED
    ),
    _metric(
        "grid_pointing_game_3x3", grid_pointing_metric(3), "higher", "of 3 x 3 images: evidence in its own", _PREDICTED
    ),
    _metric("positive_mass", _mass, "higher", "share of the positive evidence on the object"),
    _metric("energy_inside", _mass, "higher", "positive_mass under its older name"),
    _metric("iou", _iou, "higher", "overlap with the object at each map's own best threshold, an upper bound"),
    _metric("parameter_randomisation", _randomisation, "lower", "rank correlation with maps of randomised networks"),
    _metric("coverage", _coverage, "higher", "share of the positive evidence that a sentence on the map mentions"),
    *(_metric(f"agreement_{name}", _agreement(name), "higher", text) for name, text in _MEASURES.items()),
    _metric("tie_rate", _ties, "lower", "share of pixels with a tied score"),
]
