"""Importance scores from outside: from a person, a language model, an attention map, another program.

A file of scores has, for each image by its file's name, a grid of numbers over the whole photograph, or for each text a
list of numbers, one for each token. Positive numbers are evidence for the answer.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from xai_align._tools.counted import counted
from xai_align._tools.files.legible import legible
from xai_align._tools.files.plain_json import read_json
from xai_align._tools.files.plain_text import decode_text

#: Columns of a CSV file: of a grid over an image, and of a text's tokens.
GRID, TOKENS = ("image", "row", "column", "score"), ("image", "token", "score")
#: Kinds of arrays that hold real numbers: floats, integers, truth values.
_REAL = "fiub"
#: Numbers as they are written in CSV. Python's own ``int`` and ``float`` also take ``1_0`` and digits of other scripts.
_WHOLE = re.compile(r"[+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
#: First bytes of an .npy file.
_NPY = b"\x93NUMPY"
_ALLOWED = "write .csv, .json, .npy or .npz"


@dataclass(frozen=True)
class OutsideScores:
    """Scores of images or texts, by name.

    Attributes:
        name: name of the method that they come from.
        values: ``[h, w]`` for an image, ``[T]`` for a text, float64, by the image file's name or its stem.

    Example::

        import numpy as np

        human = OutsideScores("human", {"cat.jpg": np.eye(2)})
        human.of("photos/cat.jpg")  # [[1, 0], [0, 1]]
    """

    name: str
    values: dict[str, NDArray[np.float64]]

    def of(self, image: str | Path) -> NDArray[np.float64]:
        """Return the scores of an image, by its file's name or stem.

        Raises:
            ValueError: there are none.
        """
        name = self._name_of(image)
        if name is None:
            raise ValueError(f"'{self.name}' has no scores of '{legible(Path(image).name)}'")
        return self.values[name]

    def check_images(self, images: Sequence[Path]) -> None:
        """Raise unless there are scores of one of the images, and none are of several.

        Raises:
            ValueError: there are none, or an image's are ambiguous; the message names them.
        """
        owner: dict[str, Path] = {}
        for path in images:
            name = self._name_of(path)
            if name is None:
                continue
            if name in owner:
                raise ValueError(
                    f"the scores of '{legible(name)}' in '{self.name}' fit two images, '{legible(owner[name])}' and "
                    f"'{legible(path)}'; name them by these paths"
                )
            owner[name] = path
        if not owner:
            raise ValueError(
                f"'{self.name}' has scores of none of the images: its first are of '{legible(next(iter(self.values)))}'"
                f", and the first image is '{legible(images[0])}'"
            )

    def _name_of(self, image: str | Path) -> str | None:
        path = Path(image)
        return next((name for name in (str(path), path.name, path.stem) if name in self.values), None)

    def on_input(self, image: str | Path, positions: Tensor) -> Tensor:
        """Return an image's scores at the pixels of a model's input, ``[H, W]``; 0 outside the photograph.

        Cells are spread smoothly, so that the pixels of one are not tied.

        Args:
            image: its file.
            positions: from :func:`photograph_positions`.

        Raises:
            ValueError: there are no scores of this image, or they are not a grid.
        """
        values = self.of(image)
        if values.ndim != 2:
            raise ValueError(
                f"'{self.name}' has a list for '{legible(Path(image).name)}', like a text's tokens; give rows of cells"
            )
        cells = torch.from_numpy(values)[None, None]
        at = positions.double()[None]
        found = grid_sample(cells, (2 * at - 1).nan_to_num(), padding_mode="border", align_corners=False)[0, 0]
        return found.where(~at[0].isnan().any(-1), torch.zeros((), dtype=found.dtype))


def photograph_positions(size: tuple[int, int], preprocess: Callable[[Any], Tensor]) -> Tensor:
    """Return where in the photograph each pixel of the model's input lies, ``[H, W, 2]``: x and y in 0..1.

    The geometry of the preprocessing is determined by passing two ramps through it as pictures, to
    1/255 of each side. NaN where the input contains nothing of the photograph, such as padding.

    Args:
        size: width and height of the photograph.
        preprocess: a PIL image to ``[C, H, W]``.

    Example::

        at = photograph_positions((640, 480), lambda picture: preprocess(picture))
        at[0, 0]  # x and y of the input's upper left pixel
    """
    from PIL import Image

    width, height = size
    black, white = (preprocess(Image.new("RGB", size, colour)).double() for colour in ("black", "white"))
    span = (white - black).sum(0)
    found = []
    for ramp in (
        np.broadcast_to((np.arange(width) + 0.5) / width, (height, width)),
        np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width)),
    ):
        picture = Image.fromarray(np.rint(255 * ramp).astype(np.uint8)).convert("RGB")
        found.append((preprocess(picture).double() - black).sum(0) / span)
    return torch.stack(found, -1).where(span[..., None].abs() > 1e-6, torch.nan)


def read_scores(file: str | Path, *, images: Sequence[str | Path] = (), name: str | None = None) -> OutsideScores:
    """Read a file of scores.

    - CSV with the columns image, row, column, score, or, for texts, image, token, score; rows and tokens count from 0.
    - JSON: ``{"cat.jpg": [[0.1, 0.7], [0, 0.2]]}``, lists of rows, or a list of numbers for a text.
    - ``.npz``: an array by each image's name.
    - ``.npy``: ``[N, h, w]`` in the order of ``images``, or ``[h, w]`` for one.

    Args:
        file: its path.
        images: the images in their order, for ``.npy``.
        name: name of the method; None: the file's name without its suffix.

    Raises:
        ValueError: it cannot be read, or is not of this form; the message names the file and the position in it.

    Example::

        import tempfile

        import numpy as np

        file = Path(tempfile.mkdtemp()) / "human.npz"
        np.savez(file, **{"cat.jpg": [[0, 1], [0, 0]]})
        read_scores(file).of("cat.jpg")
    """
    path = Path(file)
    readers: dict[str, Callable[[Path], Iterable[tuple[str, Any]]]] = {
        ".csv": _from_csv,
        ".json": _from_json,
        ".npz": _from_npz,
        ".npy": lambda one: _from_npy(one, images),
    }
    if path.suffix.lower() not in readers:
        raise ValueError(f"scores in '{legible(path)}' cannot be read by their suffix; {_ALLOWED}")
    if "\0" in str(file):
        raise ValueError(f"'{legible(path)}' cannot be read (it is not a valid file name)")
    try:
        entries = list(readers[path.suffix.lower()](path))
    except OSError as error:
        raise ValueError(f"'{legible(path)}' cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise ValueError(f"'{legible(path)}' states an array that is larger than the memory") from error
    if not entries:
        raise ValueError(f"'{legible(path)}' holds no scores")
    return OutsideScores(name or path.stem, {key: _checked(path, key, value) for key, value in entries})


def _checked(path: Path, key: str, value: Any) -> NDArray[np.float64]:
    where = f"'{legible(path)}', '{legible(key)}'"
    if isinstance(value, bytes) or (isinstance(value, np.ndarray) and value.dtype.kind not in _REAL):
        found = "no array" if isinstance(value, bytes) else f"an array of {value.dtype}"
        raise ValueError(f"{where}: {found}; give real numbers")
    if isinstance(value, str) or (isinstance(value, list) and _holds_text(value)):
        raise ValueError(f"{where}: holds a text; give numbers without quotes")
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: not a list of numbers, or of rows of one length ({error})") from error
    if array.ndim not in (1, 2) or not array.size:
        raise ValueError(f"{where}: an array of shape {list(array.shape)}; give [rows, columns], or [tokens]")
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: holds NaN or infinity")
    return array


def _holds_text(values: list[Any]) -> bool:
    """Return whether a list, or one in it, holds a text, which numpy would read as a number."""
    return any(isinstance(one, str) or (isinstance(one, list) and _holds_text(one)) for one in values)


def _from_json(path: Path) -> Iterable[tuple[str, Any]]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"'{legible(path)}' holds a {type(content).__name__}; give an object, scores by image name")
    return content.items()


def _from_npz(path: Path) -> Iterable[tuple[str, Any]]:
    if not is_zipfile(path):
        raise ValueError(f"'{legible(path)}' is not an .npz file; an array alone is written as .npy")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return list(arrays.items())
    except (MemoryError, OSError):
        raise
    except Exception as error:  # readers of damaged files raise almost anything
        raise ValueError(f"'{legible(path)}' is damaged, or holds other than arrays of numbers ({error})") from error


def _from_npy(path: Path, images: Sequence[str | Path]) -> Iterable[tuple[str, Any]]:
    with path.open("rb") as file:
        start = file.read(len(_NPY))
    if start != _NPY:
        is_npz = "; it is a .npz file, so name it so" if is_zipfile(path) else ""
        raise ValueError(f"'{legible(path)}' is not an .npy file{is_npz}")
    try:
        array = np.load(path, allow_pickle=False)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise ValueError(f"'{legible(path)}' is not an array of numbers ({error})") from error
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or len(array) != len(images):
        raise ValueError(
            f"'{legible(path)}' holds an array of shape {list(array.shape)} for {counted(len(images), 'image')}; give "
            "[images, rows, columns] in their order, or a .npz file with an array by each image's name"
        )
    return [(str(image), one) for image, one in zip(images, array, strict=True)]


def _from_csv(path: Path) -> Iterable[tuple[str, Any]]:
    try:
        text = decode_text(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(f"'{legible(path)}' is not text in UTF-8 ({error})") from error
    lines = csv.DictReader(StringIO(text))
    try:
        columns, entries = tuple(lines.fieldnames or ()), list(lines)
    except csv.Error as error:
        raise ValueError(f"'{legible(path)}' is not a CSV file ({error})") from error
    form = next((form for form in (GRID, TOKENS) if set(form) <= set(columns)), None)
    if form is None:
        raise ValueError(
            f"'{legible(path)}' has the columns {', '.join(map(legible, columns)) or 'none'}; give {', '.join(GRID)}, "
            f"or {', '.join(TOKENS)}, separated by commas"
        )
    twice = [name for name in form if columns.count(name) > 1]
    if twice:
        raise ValueError(f"'{legible(path)}' has the column {twice[0]} twice")
    cells: dict[str, dict[tuple[int, ...], float]] = {}
    for number, line in enumerate(entries, start=2):
        if None in line or None in line.values():
            given = len(columns) + len(line.get(None, ())) - list(line.values()).count(None)
            raise ValueError(
                f"'{legible(path)}', line {number}: {counted(given, 'entry', 'entries')} for "
                f"{counted(len(columns), 'column')}; write decimals with a "
                "point, and names with commas in quotes"
            )
        try:
            place = tuple(_counted_from_0(name, line[name]) for name in form[1:-1])
            score = _decimal(line["score"])
        except ValueError as error:
            raise ValueError(f"'{legible(path)}', line {number}: {error}") from error
        known = cells.setdefault(line["image"], {})
        if place in known:
            raise ValueError(
                f"'{legible(path)}', line {number}: a second score for {dict(zip(form[1:-1], place, strict=True))}"
            )
        known[place] = score
    return [(image, _array(path, image, known)) for image, known in cells.items()]


def _counted_from_0(name: str, written: str) -> int:
    if not _WHOLE.fullmatch(written.strip()):
        raise ValueError(f"the {name} is {_shown(written)}; give a whole number: rows, columns and tokens count from 0")
    return int(written)


def _decimal(written: str) -> float:
    if not _NUMBER.fullmatch(written.strip()):
        raise ValueError(f"the score is {_shown(written)}; give a number, with a decimal point")
    return float(written)


def _shown(written: str) -> str:
    return f"'{legible(written[:40])}'" if written.strip() else "missing"


def _array(path: Path, image: str, cells: dict[tuple[int, ...], float]) -> NDArray[np.float64]:
    shape = tuple(max(axis) + 1 for axis in zip(*cells, strict=True))
    if len(cells) != np.prod(shape):
        raise ValueError(
            f"'{legible(path)}', '{legible(image)}': {counted(len(cells), 'score')} for "
            f"{' x '.join(map(str, shape))} cells; give "
            "one for each"
        )
    array = np.zeros(shape)
    for place, score in cells.items():
        array[place] = score
    return array
