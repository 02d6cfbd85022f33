"""Aligned attributions with pytorch-grad-cam's conventions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xai_align.adapter_tools import optional_package

if TYPE_CHECKING:
    from gradcam_align.align_cam import ALIGNCAM
    from gradcam_align.attribution_cam import AttributionCAM
    from gradcam_align.fei_cam import FEICAM
    from gradcam_align.pinet_cam import PiNetCAM
    from gradcam_align.target_question import TargetQuestion

__all__ = ["ALIGNCAM", "FEICAM", "AttributionCAM", "PiNetCAM", "TargetQuestion"]

#: Module of each public class. pytorch-grad-cam is imported on first access, so that listing plugins stays fast.
_HOME = {
    "ALIGNCAM": "gradcam_align.align_cam",
    "AttributionCAM": "gradcam_align.attribution_cam",
    "FEICAM": "gradcam_align.fei_cam",
    "PiNetCAM": "gradcam_align.pinet_cam",
    "TargetQuestion": "gradcam_align.target_question",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gradcam_align' has no attribute '{name}'; it offers {', '.join(__all__)}")
    with optional_package("gradcam", "grad-cam", "classes with pytorch-grad-cam's call"):
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
