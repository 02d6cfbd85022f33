"""ALIGN: a classifier and a masker trained together, from the published description (arXiv 2511.06944).

Training recipes of other packages need nothing beyond these names; ``examples/plugin_align_experiments`` shows three.
"""

from xai_align._tools.checks import check_number
from xai_align.align.align_fit import AlignFit
from xai_align.align.alignment_loss import alignment_loss
from xai_align.align.forward_passes.classifier_pass import ClassifierPass
from xai_align.align.forward_passes.masker_pass import MaskerPass
from xai_align.align.forward_passes.side_pass import evaluation_pass
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.masker import Masker
from xai_align.align.masker_export import export_masker
from xai_align.align.masker_file import load_masker, push_masker, save_masker
from xai_align.align.masker_loss import masker_loss
from xai_align.align.method import ALIGNMethod, ClassAgnosticWarning
from xai_align.align.mixup_regulariser import mixup_regulariser
from xai_align.align.options import AlignOptions
from xai_align.align.recipe_by_name import recipe
from xai_align.align.recipe_record import Recipe
from xai_align.align.saliency import grad_cam, normalised
from xai_align.align.saliency_of_readouts import readout_evidence, readout_saliency
from xai_align.align.shortcut import ShortcutWarning, find_shortcuts
from xai_align.align.stage_masker import NoStagesError, StageMasker
from xai_align.align.terms.classifier_terms import Classification
from xai_align.align.terms.masker_terms import Distinction, MaskerTerm, Smoothness
from xai_align.align.terms.running_means import RunningMeans
from xai_align.align.trainer import AlignTrainer
from xai_align.align.training.collapse import CollapseWarning

__all__ = [
    "ALIGNMethod",
    "AlignFit",
    "AlignOptions",
    "AlignTrainer",
    "ClassAgnosticWarning",
    "Classification",
    "ClassifierPass",
    "CollapseWarning",
    "Distinction",
    "Masker",
    "MaskerPass",
    "MaskerTerm",
    "NoStagesError",
    "Recipe",
    "RunningMeans",
    "ShortcutWarning",
    "Smoothness",
    "StageMasker",
    "TrainingBatch",
    "alignment_loss",
    "check_number",
    "evaluation_pass",
    "export_masker",
    "find_shortcuts",
    "grad_cam",
    "load_masker",
    "masker_loss",
    "mixup_regulariser",
    "normalised",
    "push_masker",
    "readout_evidence",
    "readout_saliency",
    "recipe",
    "save_masker",
]
