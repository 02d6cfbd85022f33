"""Image classifiers of Hugging Face's transformers by name or folder, and a callback for its ``Trainer``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_align.explanation_callback import ExplanationCallback
    from hf_align.loading import load_hf_model

__all__ = ["ExplanationCallback", "load_hf_model"]

_HOME = {"ExplanationCallback": "hf_align.explanation_callback", "load_hf_model": "hf_align.loading"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hf_align' has no attribute '{name}'; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)
