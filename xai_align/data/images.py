"""Photographs from disk: paths, opening, and conversion of tensors back to pictures."""

from __future__ import annotations

from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

#: Suffixes of images inside a folder or a pattern; a file given by name may have any.
IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))


class ImageError(ValueError):
    """Error for a file that is no image, or is damaged; the message names it."""


def expand_paths(given: Iterable[str | Path]) -> list[Path]:
    """Return the image files for files, folders (their images, without subfolders) and patterns, each once.

    In the order given; inside a folder or a pattern sorted by name. ``**`` in
    a pattern includes subfolders.

    Raises:
        ValueError: a path does not exist, or a folder or pattern holds no image.
    """
    found = [path for one in given for path in _expand(str(one))]
    if not found:
        raise ValueError("no image was given; name a file, a folder or a pattern such as 'photos/*.jpg'")
    return list(dict.fromkeys(found))


def distinct_stems(paths: Sequence[Path]) -> list[str]:
    """Return a name for the results of each file: its stem, with a number if that is already taken."""
    taken: set[str] = set()
    stems = []
    for path in paths:
        stem, number = path.stem, 2
        while stem.casefold() in taken:  # some file systems do not distinguish a.jpg from A.jpg
            stem, number = f"{path.stem}-{number}", number + 1
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def open_image(path: str | Path) -> Image.Image:
    """Open an image in RGB, rotated upright, transparent pixels in white.

    Raises:
        ImageError: the file cannot be read as an image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            file.load()
            upright = ImageOps.exif_transpose(file)
    except Exception as error:  # decoders of damaged files raise almost anything
        raise ImageError(f"{path}: cannot be read as an image ({error or type(error).__name__})") from error
    if upright.mode.startswith(("I", "F")):  # 16 bits and more: converting alone would clip to white
        return Image.fromarray(_to_bytes(np.asarray(upright))).convert("RGB")
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        solid = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(solid, upright.convert("RGBA")).convert("RGB")
    return upright.convert("RGB")


def to_picture(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float64]:
    """Convert a preprocessed image ``[C, H, W]`` to a picture ``[H, W, 3]`` in [0, 1].

    With more than three channels, the first three are used; with fewer, their mean.
    """
    pixels = x.detach().cpu().double().numpy()
    pixels = pixels * np.reshape(std, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1))
    channels = pixels[:3] if len(pixels) >= 3 else np.repeat(pixels.mean(0, keepdims=True), 3, axis=0)
    return np.clip(np.nan_to_num(channels), 0, 1).transpose(1, 2, 0)


def _expand(given: str) -> list[Path]:
    path = Path(given).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        images = sorted(file for file in path.iterdir() if _is_image(file))
        if not images:
            raise ValueError(f"the folder '{given}' holds no image ({_suffixes()}); its subfolders are not searched")
        return images
    if not any(sign in given for sign in "*?["):
        raise ValueError(f"'{given}' does not exist; give an image, a folder or a pattern")
    images = sorted(file for file in map(Path, glob(str(path), recursive=True)) if _is_image(file))
    if not images:
        raise ValueError(f"the pattern '{given}' matches no image ({_suffixes()})")
    return images


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))


def _to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    values = np.nan_to_num(values.astype(np.float64))
    top = 65535 if values.max() > 255 else 255 if values.max() > 1 else 1
    return np.clip(values * (255 / top), 0, 255).round().astype(np.uint8)
