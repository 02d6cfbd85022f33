"""Labels and boxes stored with the images: ``labels.json``, and boxes after the model's preprocessing.

A box is given in shares of the whole photograph. Preprocessing crops, resizes or
pads, so a box is passed through it as a picture: white inside, black outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xai_align._tools.files.fields import either, listed, nothing, record_with_more, text, whole
from xai_align._tools.files.fields import number as finite_number
from xai_align._tools.files.plain_json import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: The file beside the images: a list of ``{"file", "label" or "imagenet_class", "boxes_xywh_centre_norm"}``.
LABELS = "labels.json"

#: x and y of the centre, width, height: shares of the picture's width and height.
Box = tuple[float, float, float, float]
_CLASS = either(nothing, whole(0, 2**53))
#: Fields of an entry; further fields are ignored.
_ENTRY = record_with_more(
    {"file": text(longest=10_000)},
    {
        "label": _CLASS,
        "imagenet_class": _CLASS,
        "boxes_xywh_centre_norm": either(nothing, listed(listed(finite_number(), 4, 4))),
    },
)


@dataclass(frozen=True)
class ImageLabel:
    """Label of an image: its class, and the boxes of its object, in shares of the photograph."""

    label: int | None = None
    boxes: tuple[Box, ...] = ()


def read_labels(paths: Sequence[Path]) -> dict[Path, ImageLabel]:
    """Read the labels of images from the ``labels.json`` of their folders.

    Raises:
        ValueError: such a file is not valid; the message names it and the entry.
    """
    known: dict[Path, ImageLabel] = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        file = folder / LABELS
        if file.is_file():
            known |= {folder / name: label for name, label in _read(file).items()}
    return {path: known[path] for path in paths if path in known}


def boxes_on_input(
    boxes: Sequence[Box], size: tuple[int, int], preprocess: Callable[[Any], Tensor]
) -> tuple[Tensor, Tensor]:
    """Map boxes to the model's input.

    Args:
        boxes: in shares of the photograph.
        size: width and height of the photograph.
        preprocess: the model's: a PIL image to ``[C, H, W]``; only its geometry matters. A pixel is inside where
            the picture of the box is nearer to a white picture than to a black one.

    Returns:
        ``(boxes, mask)``: ``[n, 4]`` float32 in shares of the input, without the boxes that were cropped
        away, and bool ``[H, W]``, inside any of them.
    """
    from PIL import Image

    black, white = (preprocess(Image.new("RGB", size, colour)) for colour in ("black", "white"))
    mask = torch.zeros(black.shape[1:], dtype=torch.bool)
    kept = []
    for box in boxes:
        shown = preprocess(_picture(box, size))
        inside = (shown - black).abs().sum(0) > (white - shown).abs().sum(0)
        if inside.any():
            mask |= inside
            kept.append(_bounds(inside))
    return torch.tensor(kept, dtype=torch.float32).reshape(-1, 4), mask


def _picture(box: Box, size: tuple[int, int]) -> Any:
    from PIL import Image

    (x, y, width, height), (columns, rows) = box, size
    left, right = (round(min(max(edge, 0.0), 1.0) * columns) for edge in (x - width / 2, x + width / 2))
    top, bottom = (round(min(max(edge, 0.0), 1.0) * rows) for edge in (y - height / 2, y + height / 2))
    pixels = np.zeros((rows, columns, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    return Image.fromarray(pixels)


def _bounds(inside: Tensor) -> Box:
    """Return the bounding box of the mask, in shares."""
    height, width = inside.shape
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    top, bottom = int(rows.min()) / height, (int(rows.max()) + 1) / height
    left, right = int(columns.min()) / width, (int(columns.max()) + 1) / width
    return ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def _read(file: Path) -> dict[str, ImageLabel]:
    entries = read_json(file)
    if not isinstance(entries, list):
        raise ValueError(
            f"{file} holds a {type(entries).__name__}; it should be a list of {{'file': ..., 'label': ...}}"
        )
    found = {}
    for number, entry in enumerate(entries):
        try:
            if complaint := _ENTRY(entry, f"[{number}]"):
                raise ValueError(complaint)
            boxes = tuple(_box(box) for box in entry.get("boxes_xywh_centre_norm") or ())
        except ValueError as error:
            raise ValueError(f"{file}: entry {number} is not understood ({error})") from error
        label = entry.get("label")
        found[entry["file"]] = ImageLabel(entry.get("imagenet_class") if label is None else label, boxes)
    return found


def _box(values: Any) -> Box:
    x, y, width, height = map(float, values)
    if min(width, height) <= 0:
        raise ValueError(f"the box {values} has no area")
    return (x, y, width, height)
