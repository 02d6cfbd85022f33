"""Image files that hold more than eight bits or more than three channels: NumPy's files, TIFF, PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUMPY, _ZIP, _PNG = b"\x93NUMPY", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
#: Name of the image among the arrays of an ``.npz`` file with several.
IMAGE = "image"


def read_array(path: Path) -> NDArray[Any] | None:
    """Return an image as the numbers of its file, ``[H, W, C]``; None for files that Pillow reads without loss.

    These are NumPy's files, TIFF with more than eight bits or four channels, or with pages of one channel each, and
    colour PNG of sixteen bits.

    Raises:
        Exception: of the file's reader; it is damaged, or not an image.
    """
    with path.open("rb") as file:
        start = file.read(33)
    if start.startswith(_NUMPY):
        return channels_last(np.load(path, allow_pickle=False))
    if start.startswith(_ZIP):
        return channels_last(_from_npz(path))
    if start.startswith(_TIFF):
        return _from_tiff(path)
    if start.startswith(_PNG) and start[24] == 16 and start[25] & 2 | start[25] & 4:
        return _from_png(path)
    return None


def channels_last(array: NDArray[Any]) -> NDArray[Any]:
    """Return an image array as ``[H, W, C]``; the shorter of the first and the last axis is the channels.

    Raises:
        ValueError: it has not two or three axes, or a size of 0.

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


def _from_tiff(path: Path) -> NDArray[Any] | None:
    """Return the first page, or the pages as channels if each has one channel and all have one size."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages: Any = file.pages
        first = pages[0]
        alike = len(pages) > 1 and first.samplesperpixel == 1 and len({page.shape for page in pages}) == 1
        if alike:
            return np.stack([_page(page) for page in pages], -1)
        if first.samplesperpixel <= 4 and first.bitspersample <= 8 and first.sampleformat in (1, 4):
            return None
        values = _page(first)
        if values.ndim == 3 and first.planarconfig == 2:
            return np.moveaxis(values, 0, 2)
        return values[..., None] if values.ndim == 2 else values


def _page(page: Any) -> NDArray[Any]:
    values = np.asarray(page.asarray())
    if page.photometric == 0 and values.dtype.kind in "ub":  # white is zero
        return np.asarray(2**page.bitspersample - 1 - values, values.dtype) if values.dtype.kind == "u" else ~values
    return values


def _from_png(path: Path) -> NDArray[Any] | None:
    """Return colour and sixteen bits, of which Pillow keeps eight; transparent pixels in white."""
    try:
        import cv2
    except ImportError:  # comes with pytorch-grad-cam; Pillow's upper eight bits are right for all sixteen
        return None
    values: Any = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3 or values.dtype != np.uint16:
        return None
    if values.shape[2] == 3:
        return np.asarray(values[..., ::-1])
    solid, alpha = values[..., 2::-1], values[..., 3:] / 65535
    return np.asarray(np.rint(solid * alpha + 65535 * (1 - alpha)), np.uint16)
