"""Parts of pictures with a frame around one cell, and sheets of them: the prototypes of a channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_align._tools.files.whole_file import write_whole
from xai_align._tools.jpeg import SmallPicture, jpeg

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from xai_align.prototypes import Prototypes

#: Side of a part, in pixels.
SIDE = 96
#: Side of a part in cells, and its smallest share of the picture.
_CELLS, _SHARE = 3, 0.25
_FRAME, _QUALITY = (255, 214, 10), 85


def part_picture(picture: NDArray[Any] | Image.Image, box: Sequence[float]) -> Image.Image:
    """Return the surroundings of a cell, ``SIDE`` pixels wide and high, with a yellow frame around the cell.

    Args:
        picture: ``[H, W, 3]`` in [0, 1], or an image of Pillow in RGB.
        box: left, top, right, bottom of the cell, in pixels.
    """
    from PIL import Image, ImageDraw

    image = picture if isinstance(picture, Image.Image) else _as_image(picture)
    width, height = image.size
    side = min(max(_CELLS * max(box[2] - box[0], box[3] - box[1]), _SHARE * min(height, width)), height, width)
    left = min(max((box[0] + box[2] - side) / 2, 0), width - side)
    top = min(max((box[1] + box[3] - side) / 2, 0), height - side)
    part = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    scale = SIDE / side
    x0, y0, x1, y1 = ((value - start) * scale for value, start in zip(box, (left, top) * 2, strict=True))
    frame = (max(x0, 0), max(y0, 0), min(x1, SIDE) - 1, min(y1, SIDE) - 1)
    draw = ImageDraw.Draw(part)
    draw.rectangle(frame, outline=(0, 0, 0), width=3)
    draw.rectangle(frame, outline=_FRAME, width=2)
    return part


def sheet_file(folder: Path, channel: int) -> Path:
    """Return the file of a channel's sheet."""
    return folder / f"{channel:05d}.jpg"


def write_sheets(
    folder: Path,
    prototypes: Prototypes,
    picture: Callable[[int], NDArray[Any]],
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Write a sheet ``00012.jpg`` for each channel that has none: the prototypes of sign 1 above those of sign -1.

    Each picture is made once.

    Args:
        folder: it is created if necessary.
        prototypes: the fitted prototypes.
        picture: function from an image's index to its picture ``[H, W, 3]`` in [0, 1], as large as the model's input.
        advance: called with 1 after each picture.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    missing = [channel for channel in range(prototypes.channels) if not sheet_file(folder, channel).is_file()]
    wanted: dict[int, list[tuple[int, int, int]]] = {}
    for channel in missing:
        for side in range(2):
            for rank, image in enumerate(prototypes.images[side, channel].tolist()):
                wanted.setdefault(image, []).append((side, channel, rank))
    parts: dict[tuple[int, int, int], bytes] = {}  # as JPEG, which is 2 KB each
    for image, places in sorted(wanted.items()):
        shown = _as_image(picture(image))
        for place in places:
            box = prototypes.box(int(prototypes.positions[place]))
            parts[place] = _encoded(part_picture(shown, box))
        advance(1)
    count = prototypes.images.shape[2]
    for channel in missing:
        sheet = Image.new("RGB", (count * SIDE, 2 * SIDE))
        for side in range(2):
            for rank in range(count):
                sheet.paste(Image.open(BytesIO(parts[side, channel, rank])), (rank * SIDE, side * SIDE))
        write_whole(sheet_file(folder, channel), _encoded(sheet))


def parts_on_sheet(folder: Path, channel: int, sign: int) -> list[SmallPicture]:
    """Return the parts of one sign on a channel's sheet; empty if there is no sheet that can be read."""
    from PIL import Image

    try:
        with Image.open(sheet_file(folder, channel)) as opened:
            sheet = opened.convert("RGB")
    except OSError:
        return []
    top = 0 if sign > 0 else SIDE
    return [
        small_part(sheet.crop((left, top, left + SIDE, top + SIDE))) for left in range(0, sheet.width - SIDE + 1, SIDE)
    ]


def small_part(part: Image.Image) -> SmallPicture:
    """Return a part for a page."""
    return jpeg(part, side=SIDE, quality=_QUALITY)


def _as_image(picture: NDArray[Any]) -> Image.Image:
    from PIL import Image

    return Image.fromarray((np.nan_to_num(picture).clip(0, 1) * 255).round().astype(np.uint8))


def _encoded(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()
