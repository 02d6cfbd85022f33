"""Thumbnails, small enough that a page can embed hundreds of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xai_align._tools.jpeg import SmallPicture, jpeg
from xai_align.data.images import ImageError, open_image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: The longer side of a thumbnail, in pixels.
SIDE = 144
#: The longest side of a photograph on a page, in pixels; that of a model's input is often shorter.
PHOTOGRAPH_SIDE = 448
_QUALITY, _PHOTOGRAPH_QUALITY = 75, 85


def thumbnail(path: Path) -> SmallPicture | None:
    """Return the picture in a file with its longer side at most :data:`SIDE`; None if it cannot be read."""
    return _read(path, SIDE, _QUALITY)


def photograph(path: Path) -> SmallPicture | None:
    """Return the picture in a file as a page shows photographs; None if it cannot be read."""
    return _read(path, PHOTOGRAPH_SIDE, _PHOTOGRAPH_QUALITY)


def thumbnail_of(picture: NDArray[Any]) -> SmallPicture:
    """Return a picture ``[H, W, 3]`` in [0, 1] with its longer side at most :data:`SIDE`."""
    return jpeg(picture, side=SIDE, quality=_QUALITY)


def photograph_of(picture: NDArray[Any]) -> SmallPicture:
    """Return a picture ``[H, W, 3]`` in [0, 1] as a page shows photographs."""
    return jpeg(picture, side=PHOTOGRAPH_SIDE, quality=_PHOTOGRAPH_QUALITY)


def _read(path: Path, side: int, quality: int) -> SmallPicture | None:
    try:
        return jpeg(open_image(path), side=side, quality=quality)
    except ImageError:
        return None
