"""Models of torchvision by name, with the preprocessing and class names of their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchvision_align.loading import load_torchvision_model

__all__ = ["load_torchvision_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'torchvision_align' has no attribute '{name}'; it offers {', '.join(__all__)}")
    from torchvision_align import loading

    return getattr(loading, name)
