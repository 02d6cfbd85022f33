"""Exact readout and PiNet retrofits of timm models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timm_align.loading import load_timm_model
    from timm_align.pinet_retrofit import retrofit
    from timm_align.second_look import TimmEncoder

__all__ = ["TimmEncoder", "load_timm_model", "retrofit"]

#: Module of each public name. timm is imported on first access, so that listing plugins stays fast.
_HOME = {
    "TimmEncoder": "timm_align.second_look",
    "load_timm_model": "timm_align.loading",
    "retrofit": "timm_align.pinet_retrofit",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'timm_align' has no attribute '{name}'; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
