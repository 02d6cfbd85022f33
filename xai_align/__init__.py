"""Aligned explanations for existing pipelines: the prediction is the sum of its attributions.

Importing this package loads PyTorch, NumPy and pluggy, and nothing else.
"""

from xai_align._tools.version import __version__ as __version__
from xai_align.explanation import explain
from xai_align.hookspecs import (
    AttributionSpec,
    FeatureSpace,
    LoadedModel,
    MetricSpec,
    Split,
    TrainingRecipeSpec,
    hookimpl,
)
from xai_align.pinet import ExactPiNet, PiNet, Readout, read_out, read_out_all_classes
from xai_align.plugins import PluginError, PluginWarning
from xai_align.question import Question, ask
from xai_align.report.compare import compare

__all__ = [
    "AttributionSpec",
    "ExactPiNet",
    "FeatureSpace",
    "LoadedModel",
    "MetricSpec",
    "PiNet",
    "PluginError",
    "PluginWarning",
    "Question",
    "Readout",
    "Split",
    "TrainingRecipeSpec",
    "ask",
    "compare",
    "explain",
    "hookimpl",
    "read_out",
    "read_out_all_classes",
]
