"""Aligned explanations for existing pipelines: the prediction is the sum of its attributions.

Importing this package loads nothing; PyTorch, NumPy and pluggy come with the first name that is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xai_align._tools.version import __version__ as __version__

if TYPE_CHECKING:
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

#: Each public name with the module that it comes from.
_HOME = {
    **dict.fromkeys(("explain",), "xai_align.explanation"),
    **dict.fromkeys(
        ("AttributionSpec", "FeatureSpace", "LoadedModel", "MetricSpec", "Split", "TrainingRecipeSpec", "hookimpl"),
        "xai_align.hookspecs",
    ),
    **dict.fromkeys(("ExactPiNet", "PiNet", "Readout", "read_out", "read_out_all_classes"), "xai_align.pinet"),
    **dict.fromkeys(("PluginError", "PluginWarning"), "xai_align.plugins"),
    **dict.fromkeys(("Question", "ask"), "xai_align.question"),
    "compare": "xai_align.report.compare",
}
#: Public modules and packages, for ``import xai_align; xai_align.plugins``.
_ROOMS = frozenset(
    "adapter_tools align comparison data evaluation explanation features fei hookspecs perturbation pinet plugins "
    "prototypes question report testing training".split()
)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _ROOMS:
        return import_module(f"xai_align.{name}")
    raise AttributeError(f"module 'xai_align' has no attribute '{name}'; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
