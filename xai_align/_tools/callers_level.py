"""The stack level at which the library was called, for warnings raised deep inside it."""

from __future__ import annotations

import sys
from types import FrameType

#: Packages whose frames are skipped: the library, its adapters, and packages that call between their functions.
_BETWEEN = frozenset(
    "xai_align attention_align captum_align gradcam_align hf_align timm_align torchvision_align captum "
    "pytorch_grad_cam contextlib torch".split()
)


def callers_level() -> int:
    """Return the ``stacklevel`` with which :func:`warnings.warn` names the line that called the library.

    A fixed number would name a line of the library itself as soon as another function or decorator is in between.

    Example::

        warnings.warn("many scores tie", UserWarning, stacklevel=callers_level())
    """
    level = 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    return level
