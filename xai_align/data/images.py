"""Images from disk: paths, opening, and conversion of tensors back to pictures."""

from __future__ import annotations

import os
import re
import warnings
from contextlib import suppress
from fnmatch import fnmatch
from glob import escape, glob
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xai_align._tools.counted import counted
from xai_align._tools.files.legible import legible
from xai_align._tools.files.name_part import distinct, name_part
from xai_align._tools.files.outside_folder import check_folder_is_outside
from xai_align.data.array_files import read_array
from xai_align.data.value_range import ValueRange, to_unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    #: A PIL image in RGB, or an array ``[H, W, C]`` in [0, 1] of other channels.
    Picture = Image.Image | NDArray[np.float32]

#: Suffixes of images inside a folder or a pattern; a file given by name may have any.
IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".npz", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)

#: Most bytes of a stem; file systems take names of 255.
_LONGEST_STEM = 150


class ImageError(ValueError):
    """Error for a file that is not an image, or is damaged; the message names it."""


def expand_paths(given: Iterable[str | Path], *, recursive: bool = False) -> list[Path]:
    """Return the image files for files, folders (their images) and patterns, each once.

    Files are in the given order, and sorted by name within a folder or a pattern. ``**`` in
    a pattern includes subfolders; an existing name is that file or folder, whatever characters it contains. A file that
    is reached by several names, such as symbolic links or ``a/../a/1.png``, is returned by the first of them.

    Args:
        given: files, folders, patterns.
        recursive: whether sub-folders are searched, too.

    Raises:
        ValueError: a path does not exist, or a folder or pattern holds no image.
    """
    found = [path for one in given for path in _expand(str(one), recursive=recursive)]
    if not found:
        raise ValueError("no image was given; name a file, a folder or a pattern such as 'photos/*.jpg'")
    return _each_once(found)


def check_results_are_outside(
    out: str | Path, given: Iterable[str | Path], *, recursive: bool = False, inner: Sequence[str] = ()
) -> None:
    """Raise if pictures written to a folder would be among the images that are given, at the next run.

    Args:
        out: the folder.
        given: files, folders, patterns, as for :func:`expand_paths`.
        recursive: whether sub-folders are searched, too.
        inner: names of folders in it that pictures are written to, which are checked, too.

    Raises:
        ValueError: a folder that is searched is or contains ``out``, or a pattern matches pictures in it.
    """
    folder = Path(out).expanduser()
    results = {one.resolve() for one in (folder, *(folder / name for name in inner))}
    for one in given:
        path = Path(one).expanduser()
        if os.path.isfile(path) or "\0" in str(one):
            continue
        for match in [path] if os.path.isdir(path) else _matching(_pattern(path)):
            if os.path.isdir(match):
                if recursive or (match == path and match.resolve() in results):
                    check_folder_is_outside(out, match, inner=inner)
            elif match.resolve().parent in results and fnmatch(f"{match.stem}.method.png", path.name):
                check_folder_is_outside(out, match.parent, inner=inner)


def distinct_stems(paths: Sequence[Path]) -> list[str]:
    """Return a name for the results of each file: its stem, with a number if that is already taken.

    Bytes of a stem that are not text become ``%E9``. A long stem is truncated to leave room for a method and a suffix.
    """
    return distinct(name_part(plain_name(path.stem), longest=_LONGEST_STEM) for path in paths)


def plain_name(stem: str) -> str:
    """Return a part of a file name as text for a file name: bytes that are not text become ``%E9``."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: f"%{match[1].upper()}", legible(stem))


def open_image(path: str | Path, value_range: ValueRange | None = None) -> Image.Image:
    """Open an image in RGB with eight bits, rotated upright, transparent pixels in white.

    Args:
        path: the file.
        value_range: the numbers that are black and white; None: by the rule of :mod:`~xai_align.data.value_range`.

    Raises:
        ImageError: the file cannot be read as an image, or its channels are neither grey nor red, green and blue.
    """
    found = read_picture(path, value_range)
    if isinstance(found, np.ndarray):
        raise ImageError(f"{legible(Path(path))}: has {counted(found.shape[2], 'channel')}; a picture has one or three")
    return found


def read_picture(path: str | Path, value_range: ValueRange | None = None) -> Picture:
    """Open an image as :func:`open_image` does; with other than one or three channels, as an array.

    Returns:
        A PIL image in RGB, or ``[H, W, C]``, float32 in [0, 1].

    Raises:
        ImageError: the file cannot be read as an image.
    """
    from PIL import Image

    try:
        found = read_array(Path(path))
        values, white_is_low = (None, False) if found is None else found
        if values is None:
            upright = _opened(path)
            if upright.mode.startswith(("I", "F")):  # 16 bits and more: converting alone would clip to white
                values = np.asarray(upright)[..., None]
        if values is None:
            solid = _solid(upright)
            if value_range is None:
                return solid
            values = np.asarray(solid)
        shares = to_unit(values, value_range, white_is_low=white_is_low)
    except Exception as error:  # decoders of damaged files raise almost anything
        raise ImageError(f"{legible(Path(path))}: cannot be read as an image ({_reason(error, path)})") from error
    if shares.shape[2] not in (1, 3):
        return shares
    levels = np.rint(255 * shares).astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).convert("RGB")


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read a mask: pixels that are neither black nor transparent are inside.

    Returns:
        ``[H, W]``, rotated upright.

    Raises:
        ImageError: the file cannot be read as an image.
    """
    from PIL import UnidentifiedImageError

    inside: NDArray[np.bool_] = np.asarray(open_image(path)).max(-1) > 0
    with suppress(UnidentifiedImageError):  # an array, without transparency
        image = _opened(path)
        if _has_alpha(image):
            pixels = np.asarray(image.convert("RGBA"))
            colours, alpha = pixels[..., :3], pixels[..., 3]
            return np.where(alpha == 255, inside, (colours.max(-1) > 0) & (alpha > 0))
    return inside


def to_picture(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float64]:
    """Convert a preprocessed image ``[C, H, W]`` to a picture ``[H, W, 3]`` in [0, 1].

    With more than three channels, the first three are used; with two, their mean.

    Raises:
        ValueError: mean and std have another number of channels.
    """
    pixels = x.detach().cpu().double().numpy()
    for name, given in (("mean", mean), ("std", std)):
        if len(given) not in (1, len(pixels)):
            raise ValueError(
                f"the input has {counted(len(pixels), 'channel')} and the model's {name} {len(given)}; give a {name} "
                "for each "
                "channel, or a single one"
            )
    pixels = pixels * np.reshape(std, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1))
    channels = pixels[:3] if len(pixels) >= 3 else np.repeat(pixels.mean(0, keepdims=True), 3, axis=0)
    return np.clip(np.nan_to_num(channels), 0, 1).transpose(1, 2, 0)


def images_in(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Return the image files of a folder, sorted; with ``recursive``, of its sub-folders, too."""
    return _each_once(sorted(path for path in (_below(folder) if recursive else folder.iterdir()) if _is_image(path)))


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder."""
    for here in _folders_from(folder):
        with suppress(OSError):
            yield from (entry for entry in here.iterdir() if not entry.is_dir())


def _folders_from(folder: Path) -> Iterator[Path]:
    """Yield a folder and its sub-folders, also through links, each real folder once, as links may form loops.

    Folders that are not links come first, so that a folder's own name is found. Those that can't be read are left out.
    """
    seen: set[tuple[int, int]] = set()
    waiting, links = [folder], list[Path]()
    while waiting or links:
        here = waiting.pop() if waiting else links.pop()
        try:
            place = here.stat()
            entries = sorted((entry for entry in here.iterdir() if entry.is_dir()), reverse=True)
        except OSError:
            continue
        if (place.st_dev, place.st_ino) not in seen:
            seen.add((place.st_dev, place.st_ino))
            waiting += [entry for entry in entries if not entry.is_symlink()]
            links += [entry for entry in entries if entry.is_symlink()]
            yield here


def _matching(pattern: str) -> Iterator[Path]:
    """Yield what matches a pattern; ``**`` stands for the folders of :func:`_folders_from`, as glob's follow loops."""
    before, deep, after = _at_double_star(pattern)
    if not deep:
        yield from map(Path, glob(pattern))
        return
    for start in glob(before) if before else ["."]:
        for folder in _folders_from(Path(start)):
            if not any(part.startswith(".") for part in folder.relative_to(start).parts):  # as glob does
                yield from _matching(os.path.join("" if folder == Path() else escape(str(folder)), after))


def _at_double_star(pattern: str) -> tuple[str, bool, str]:
    """Return the parts before and after the first ``**``, and whether there is one."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        return pattern, False, ""
    place = parts.index("**")
    return (
        os.sep.join(parts[:place]) or (os.sep if pattern.startswith(os.sep) else ""),
        True,
        os.sep.join(parts[place + 1 :]) or "*",
    )


def _each_once(paths: Iterable[Path]) -> list[Path]:
    """Return the files, each by the first of its names; hard links are separate files."""
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(os.path.realpath(path), path)
    return list(first.values())


def _expand(given: str, *, recursive: bool) -> list[Path]:
    path = Path(given).expanduser()
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        images = images_in(path, recursive=recursive)
        if not images:
            below = "" if recursive else "; --recursive searches its subfolders, too"
            raise ValueError(f"the folder '{legible(given)}' holds no image ({_suffixes()}){below}")
        return images
    if "\0" in given or not any(sign in given for sign in "*?["):
        raise ValueError(f"'{legible(given)}' does not exist; give an image, a folder or a pattern")
    matches = _matching(_pattern(path))
    images = _each_once(sorted({image for match in matches for image in _matched(match, recursive=recursive)}))
    if not images:
        raise ValueError(f"the pattern '{legible(given)}' matches no image ({_suffixes()})")
    return images


def _matched(match: Path, *, recursive: bool) -> list[Path]:
    """Return a matched image, or the images of a matched folder if folders are searched below."""
    if os.path.isdir(match):
        return images_in(match, recursive=True) if recursive else []
    return [match] if _is_image(match) else []


def _pattern(path: Path) -> str:
    """Return the pattern, with its first parts taken literally as far as they exist."""
    there = Path(path.anchor)
    parts = path.parts[1:] if path.anchor else path.parts
    for number, part in enumerate(parts):
        if not os.path.exists(there / part):
            return str(Path(escape(str(there)), *parts[number:])) if number or path.anchor else str(path)
        there /= part
    return escape(str(path))


def _is_image(path: Path) -> bool:
    return os.path.isfile(path) and is_image_name(path)


def is_image_name(path: Path) -> bool:
    """Return True for the name of an image file, whether or not there is one."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))


def _opened(path: str | Path) -> Image.Image:
    """Return the image with all of its pixels, rotated upright."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # scans are large; twice as much is refused
        file = Image.open(path)
    with file:
        file.load()
        return ImageOps.exif_transpose(file)


def _solid(image: Image.Image) -> Image.Image:
    """Return an image of eight bits in RGB, transparent pixels in white."""
    from PIL import Image

    if _has_alpha(image):
        solid = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(solid, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _has_alpha(image: Image.Image) -> bool:
    """Return whether pixels may be transparent; those of 16 bits and more in one channel are not."""
    named = "transparency" in image.info and not image.mode.startswith(("I", "F"))
    return image.mode in ("RGBA", "LA", "PA") or named


def _reason(error: Exception, path: str | Path) -> str:
    """Return a reader's message, without the file's name, which may hold any bytes."""
    from PIL import Image

    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; make it smaller"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    for name in (repr(str(path)), str(path)):
        said = said.replace(f"image file {name}", "its format").replace(name, "the file")
    return legible(said) or type(error).__name__
