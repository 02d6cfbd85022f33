"""Thumbnails, small enough that a page can embed hundreds of them."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from xai_align.data.images import ImageError, open_image

if TYPE_CHECKING:
    from pathlib import Path

#: The longer side of a thumbnail, in pixels.
SIDE = 224
_QUALITY = 80  # of JPEG: preserves the detail of fine maps at about ten thousand bytes per picture


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """Picture as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def thumbnail(path: Path) -> Thumbnail | None:
    """Return the picture with its longer side at most :data:`SIDE`; None if it cannot be read."""
    try:
        image = open_image(path)
    except ImageError:
        return None
    image.thumbnail((SIDE, SIDE))
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    data = b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(uri=f"data:image/jpeg;base64,{data}", width=image.width, height=image.height)
