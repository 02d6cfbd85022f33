"""Small JPEG files in memory, for pages that hold many pictures."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class SmallPicture:
    """Picture as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def jpeg(picture: NDArray[Any] | Image.Image, *, side: int, quality: int) -> SmallPicture:
    """Return a picture as JPEG, its longer side at most ``side`` pixels; smaller ones keep their size.

    Args:
        picture: ``[H, W, 3]`` in [0, 1], or an image of Pillow in RGB.
        side: the longer side, in pixels.
        quality: of JPEG, 1 to 95.
    """
    from PIL import Image

    if not isinstance(picture, Image.Image):
        picture = Image.fromarray((np.nan_to_num(picture).clip(0, 1) * 255).round().astype(np.uint8))
    else:
        picture = picture.copy()
    picture.thumbnail((side, side))
    buffer = BytesIO()
    picture.save(buffer, format="JPEG", quality=quality, optimize=True)
    data = b64encode(buffer.getvalue()).decode("ascii")
    return SmallPicture(uri=f"data:image/jpeg;base64,{data}", width=picture.width, height=picture.height)
