"""Explanations of fixed pictures while a network trains.

Overlays and numbers go to TensorBoard, Weights & Biases, MLflow or a folder.
"""

from xai_align.report.watching.explanation_log import ExplanationLog
from xai_align.report.watching.observation import Observation
from xai_align.report.watching.writers import FolderWriter, Writer

__all__ = ["ExplanationLog", "FolderWriter", "Observation", "Writer"]
