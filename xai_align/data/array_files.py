"""Image files that hold more than eight bits or more than three channels: NumPy's files, TIFF, PNG."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_NUMPY, _ZIP, _PNG = b"\x93NUMPY", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
#: Name of the image among the arrays of an ``.npz`` file with several.
IMAGE = "image"
_WHITE_IS_ZERO = 0  # of TIFF's photometric interpretations
_ORIENTATION = 274


class FileArray(NamedTuple):
    """Numbers of an image file, ``[H, W, C]``, upright; ``white_is_low``: the smallest of their range is white."""

    values: NDArray[Any]
    white_is_low: bool = False


def read_array(path: Path) -> FileArray | None:
    """Return an image as the numbers of its file; None for files that Pillow reads without loss.

    These are NumPy's files, TIFF with more than eight bits or four channels, or with pages of one channel each, and
    PNG of sixteen bits with colour or transparency.

    Raises:
        Exception: of the file's reader; it is damaged, or not an image.
    """
    with path.open("rb") as file:
        start = file.read(33)
    if start.startswith(_NUMPY):
        return FileArray(channels_last(np.load(path, allow_pickle=False)))
    if start.startswith(_ZIP):
        return FileArray(channels_last(_from_npz(path)))
    if start.startswith(_TIFF):
        return _from_tiff(path)
    if start.startswith(_PNG) and start[24] == 16 and start[25] & 2 | start[25] & 4:
        return FileArray(_from_png(path))
    return None


def channels_last(array: NDArray[Any]) -> NDArray[Any]:
    """Return an image array as ``[H, W, C]``; the shorter of the first and the last axis is the channels.

    Raises:
        ValueError: it does not have two or three axes, or it has a size of 0.

    Example::

        channels_last(np.zeros((12, 64, 64))).shape  # (64, 64, 12)
    """
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(f"it holds an array of shape {list(array.shape)}; images are [H, W], [H, W, C] or [C, H, W]")
    if array.ndim == 2:
        return array[..., None]
    return np.moveaxis(array, 0, 2) if array.shape[0] < array.shape[2] else array


def _from_npz(path: Path) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays)
        if len(names) != 1 and IMAGE not in names:
            raise ValueError(f"it holds the arrays {', '.join(names) or 'none'}; name one of them '{IMAGE}'")
        return np.asarray(arrays[names[0] if len(names) == 1 else IMAGE])


def _from_tiff(path: Path) -> FileArray | None:
    """Return the first page, or the pages as channels if each has one channel and all have one size."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages: Any = file.pages
        first = pages[0]
        tag = first.tags.get(_ORIENTATION)
        orientation = 1 if tag is None else int(tag.value)
        # of these, Pillow takes the rows for columns
        turned = orientation > 4 and first.compression == 1 and first.photometric <= 2 and first.samplesperpixel != 4
        alike = len(pages) > 1 and first.samplesperpixel == 1 and len({page.shape for page in pages}) == 1
        if alike:
            values = np.stack([np.asarray(page.asarray()) for page in pages], -1)
        elif not turned and first.samplesperpixel <= 4 and first.bitspersample <= 8 and first.sampleformat in (1, 4):
            return None
        else:
            values = np.asarray(first.asarray())
            values = values[..., None] if values.ndim == 2 else values
            values = np.moveaxis(values, 0, 2) if first.planarconfig == 2 and first.samplesperpixel > 1 else values
        return FileArray(_upright(values, orientation), first.photometric == _WHITE_IS_ZERO)


def _upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return ``[H, W, C]`` in its upright orientation, from TIFF's (and Exif's) orientation, 1 to 8.

    The tag says which sides of the picture the first row and the first column are: 1 top and left, 2 top and right,
    3 bottom and right, 4 bottom and left, 5 left and top, 6 right and top, 7 right and bottom, 8 left and bottom.
    """
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def _from_png(path: Path) -> NDArray[Any]:
    """Return grey or colour of sixteen bits, of which Pillow keeps eight; upright, transparent pixels in white."""
    import png
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # as for files that Pillow reads
        with Image.open(path) as file:
            orientation = file.getexif().get(_ORIENTATION, 1)
    width, height, rows, info = png.Reader(filename=path).asDirect()
    values = np.vstack([np.asarray(row, np.uint16) for row in rows]).reshape(height, width, info["planes"])
    values = _upright(values, orientation)
    if not info["alpha"]:
        return values
    solid, alpha = values[..., :-1], values[..., -1:] / 65535
    return np.asarray(np.rint(solid * alpha + 65535 * (1 - alpha)), np.uint16)
