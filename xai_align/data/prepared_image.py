"""Preprocessing of an image file for a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from xai_align._tools.counted import counted
from xai_align._tools.files.legible import legible
from xai_align.data.images import ImageError, read_picture

if TYPE_CHECKING:
    from xai_align.data.value_range import ValueRange
    from xai_align.hookspecs import LoadedModel


def prepared_image(
    path: Path, loaded: LoadedModel, value_range: ValueRange | None = None
) -> tuple[Tensor, tuple[int, int]]:
    """Return an image as the model expects it, ``[C, H, W]``, and the file's width and height.

    The model's preprocessing gets a PIL image, or an array ``[H, W, C]`` in [0, 1] if the file's channels are neither
    grey nor red, green and blue.

    Raises:
        ImageError: it cannot be read or prepared; the message names the file.
    """
    picture = read_picture(path, value_range)
    x = prepared_picture(picture, path, loaded.preprocess)
    return x, (picture.shape[1], picture.shape[0]) if isinstance(picture, np.ndarray) else picture.size


def prepared_picture(picture: Any, path: Path, preprocess: Callable[[Any], Tensor]) -> Tensor:
    """Return an image that was read from ``path`` as the model expects it, ``[C, H, W]``.

    Raises:
        ImageError: the preprocessing fails; the message names the file.
    """
    try:
        return preprocess(picture)
    except Exception as error:  # the model's own preprocessing may raise anything
        said = str(error) or type(error).__name__
        raise ImageError(f"{legible(path)}: {_channels(picture)}cannot be prepared for the model ({said})") from error


def _channels(picture: object) -> str:
    if not isinstance(picture, np.ndarray):
        return ""
    has = f"has {counted(picture.shape[2], 'channel')}"
    return f"{has}, which the model's preprocessing gets as an array [H, W, C] in [0, 1]; it "
