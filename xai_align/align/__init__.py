"""ALIGN: a classifier and a masker trained together, from the published description (arXiv 2511.06944)."""

from xai_align.align.align_fit import AlignFit
from xai_align.align.alignment_loss import alignment_loss
from xai_align.align.masker import Masker
from xai_align.align.masker_export import export_masker
from xai_align.align.masker_file import load_masker, save_masker
from xai_align.align.masker_loss import masker_loss
from xai_align.align.method import ALIGNMethod, ClassAgnosticWarning
from xai_align.align.mixup_regulariser import mixup_regulariser
from xai_align.align.recipes import RECIPES, Recipe, recipe
from xai_align.align.saliency import grad_cam
from xai_align.align.shortcut import ShortcutWarning, find_shortcuts
from xai_align.align.trainer import AlignTrainer
from xai_align.align.training.collapse import CollapseWarning
from xai_align.align.views.batch import TrainingBatch

__all__ = [
    "RECIPES",
    "ALIGNMethod",
    "AlignFit",
    "AlignTrainer",
    "ClassAgnosticWarning",
    "CollapseWarning",
    "Masker",
    "Recipe",
    "ShortcutWarning",
    "TrainingBatch",
    "alignment_loss",
    "export_masker",
    "find_shortcuts",
    "grad_cam",
    "load_masker",
    "masker_loss",
    "mixup_regulariser",
    "recipe",
    "save_masker",
]
