"""Image classifiers of Hugging Face's transformers by name or folder, with their processor and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_align.loading import load_hf_model

__all__ = ["load_hf_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hf_align' has no attribute '{name}'; it offers {', '.join(__all__)}")
    from hf_align import loading

    return getattr(loading, name)
