"""Evaluation of explanations: faithfulness, localisation, agreement and sanity checks.

Metrics that remove or keep parts of the input are pure functions of a
:class:`~xai_align.perturbation.Curve`; ``xai-align compare`` runs the same metrics on folders of images.
"""

from xai_align.evaluation.agreement import Scored, agreement, agreement_with_scores
from xai_align.evaluation.attention_agreement import (
    attention_agreement,
    attention_agreement_per_token,
    context_mixing_gap,
)
from xai_align.evaluation.boxes import boxes_to_masks, pixel_boxes_to_masks
from xai_align.evaluation.completeness import completeness_error, completeness_gap
from xai_align.evaluation.curve_metric import CurveMetric
from xai_align.evaluation.cwox import cauc, cdrop, salient_fraction
from xai_align.evaluation.detection_rates import (
    best_detection_threshold,
    detection_score,
    true_abstraction_rate,
    true_detection_rate,
)
from xai_align.evaluation.does_not_apply import MetricDoesNotApply
from xai_align.evaluation.faithfulness import comprehensiveness, deletion, insertion, removal, road, sufficiency
from xai_align.evaluation.feature_by_feature import decision_flip, rank_deletion, single_deletion
from xai_align.evaluation.grid_pointing_game import (
    PictureGrids,
    cell_share,
    draw_grids,
    grid_pointing_game,
    tile_pictures,
)
from xai_align.evaluation.hidden_activations import HiddenActivationReport, hidden_activations
from xai_align.evaluation.intersection_over_union import best_threshold, iou_at_best_threshold, iou_at_threshold
from xai_align.evaluation.localisation import (
    area_share,
    centre_gaussian_mass,
    energy_inside,
    pointing_game,
    positive_mass,
)
from xai_align.evaluation.quantus_explain_func import quantus_explain_func
from xai_align.evaluation.randomisation import parameter_randomisation
from xai_align.evaluation.rfxg import ccs, cgc, cgs, pgs
from xai_align.evaluation.salient_regions import (
    SalientRegion,
    coverage_at_k,
    grid_labels,
    salient_regions,
    verbal_coverage,
)
from xai_align.evaluation.soft_masks import average_drop, average_increase
from xai_align.evaluation.symmetric_relevance_gain import symmetric_relevance_gain

__all__ = [
    "CurveMetric",
    "HiddenActivationReport",
    "MetricDoesNotApply",
    "PictureGrids",
    "SalientRegion",
    "Scored",
    "agreement",
    "agreement_with_scores",
    "area_share",
    "attention_agreement",
    "attention_agreement_per_token",
    "average_drop",
    "average_increase",
    "best_detection_threshold",
    "best_threshold",
    "boxes_to_masks",
    "cauc",
    "ccs",
    "cdrop",
    "cell_share",
    "centre_gaussian_mass",
    "cgc",
    "cgs",
    "completeness_error",
    "completeness_gap",
    "comprehensiveness",
    "context_mixing_gap",
    "coverage_at_k",
    "decision_flip",
    "deletion",
    "detection_score",
    "draw_grids",
    "energy_inside",
    "grid_labels",
    "grid_pointing_game",
    "hidden_activations",
    "insertion",
    "iou_at_best_threshold",
    "iou_at_threshold",
    "parameter_randomisation",
    "pgs",
    "pixel_boxes_to_masks",
    "pointing_game",
    "positive_mass",
    "quantus_explain_func",
    "rank_deletion",
    "removal",
    "road",
    "salient_fraction",
    "salient_regions",
    "single_deletion",
    "sufficiency",
    "symmetric_relevance_gain",
    "tile_pictures",
    "true_abstraction_rate",
    "true_detection_rate",
    "verbal_coverage",
]
