"""Batches of a comparison on disk, so that an interrupted run can be resumed.

``settings.json`` is written first, then one file (a part) for each batch of images. A part
has a checksum and that of the settings; one that is damaged, or from other
settings, is computed again.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from xai_align._tools.counted import counted
from xai_align._tools.files.fields import check_fields, either, listed, nothing, number, record, table_of, text, whole
from xai_align._tools.files.inside_folder import file_inside
from xai_align._tools.files.plain_json import read_json
from xai_align._tools.files.whole_file import write_whole

if TYPE_CHECKING:
    from pathlib import Path

_TEXT = text(r"[\s\S]*", longest=100_000, expected="a text")
_COUNT = whole(0, 2**53)
_NUMBER = either(nothing, number())  # null: not finite
_VALUE = {
    **dict.fromkeys(("image", "question", "question_text", "method", "metric"), _TEXT),
    **dict.fromkeys(("value", "seconds", "metric_seconds"), _NUMBER),
}
_CURVE = {
    **dict.fromkeys(("image", "question", "method", "perturbation"), _TEXT),
    **dict.fromkeys(("fractions", "probabilities"), listed(_NUMBER)),
}
_PICTURE = record(dict.fromkeys(("image", "question", "question_text", "method", "file"), _TEXT))
#: Schema of the file of a part.
STORED = record(
    {
        "settings": _TEXT,
        "sha256": _TEXT,
        "content": record(
            {
                "number": _COUNT,
                "images": listed(_TEXT),
                "values": listed(record(_VALUE)),
                "curves": listed(record(_CURVE)),
                "pictures": listed(_PICTURE),
                "problems": listed(_TEXT),
                "notes": table_of(_COUNT),
                "labelled": _COUNT,
                "right": _COUNT,
            }
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class Value:
    """One number: the value of a metric for a method's explanation of one image and question.

    ``seconds``: time of the method for the image; ``metric_seconds``: time of this metric for it.
    """

    image: str
    question: str
    question_text: str
    method: str
    metric: str
    value: float
    seconds: float
    metric_seconds: float


@dataclass(frozen=True, kw_only=True)
class ImageCurve:
    """Perturbation curve of one image: the probability that the question is about, at each fraction."""

    image: str
    question: str
    method: str
    perturbation: str
    fractions: tuple[float, ...]
    probabilities: tuple[float, ...]


@dataclass(kw_only=True)
class Part:
    """Results of one batch of images.

    Attributes:
        number: the number of the batch.
        images: those that could be opened.
        values, curves: of these images.
        pictures: files made for the page, as fields of :class:`~xai_align.comparison.result.Picture`.
        problems: what failed.
        notes: remarks, with the number of images for each.
        labelled, right: number of images with a label, and of those whose label was predicted.
    """

    number: int
    images: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    curves: list[ImageCurve] = field(default_factory=list)
    pictures: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    labelled: int = 0
    right: int = 0


class FolderStore:
    """Store of parts in ``folder/parts``, for runs with these settings.

    Raises:
        ValueError: the folder holds a comparison with other settings; the message names what differs.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, as_json(settings)
        self._key = _digest(self.settings)
        before = self._settings_there()
        if before is not None and before != self.settings:
            raise ValueError(
                f"'{folder}' holds a comparison with other settings: {_differences(before, self.settings)}; "
                "choose another folder to keep it, or pass the same settings to resume it"
            )

    def begin(self) -> None:
        """Write the settings; called in one process only."""
        (self.folder / "parts").mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "settings.json", json.dumps(self.settings, indent=1, ensure_ascii=False) + "\n")

    def read(self, number: int) -> Part | None:
        """Return the part if it and its pictures are complete, else None."""
        try:
            stored = read_json(self._path(number))
            check_fields(stored, STORED, str(self._path(number)))
            content = stored["content"]
            if stored["settings"] != self._key or stored["sha256"] != _digest(content):
                return None
            part = _part(content)
            for picture in part.pictures:
                file_inside(self.folder, picture["file"])
        except (OSError, ValueError):
            return None
        return part if part.number == number else None

    def has_file(self, number: int) -> bool:
        """Return True if there is a file of this part; it is damaged if :meth:`read` returns None."""
        return self._path(number).exists()

    def write(self, part: Part) -> None:
        """Save a part atomically."""
        content = as_json(asdict(part))
        stored = {"settings": self._key, "sha256": _digest(content), "content": content}
        write_whole(self._path(part.number), json.dumps(stored, ensure_ascii=False, allow_nan=False))

    def _path(self, number: int) -> Path:
        return self.folder / "parts" / f"part-{number:05d}.json"

    def _settings_there(self) -> Any:
        path = self.folder / "settings.json"
        if not path.exists():
            return None
        try:
            return read_json(path)
        except ValueError as error:
            raise ValueError(f"{error}; choose another folder, or remove this file") from error


class MemoryStore:
    """Store of parts in memory, until the end of the run."""

    def __init__(self) -> None:
        self._parts: dict[int, Part] = {}

    def begin(self) -> None:
        """Do nothing: there is nothing to prepare."""

    def read(self, number: int) -> Part | None:
        """Return the part if it was written, else None."""
        return self._parts.get(number)

    def has_file(self, number: int) -> bool:
        """Return False: parts in memory have no files."""
        return False

    def write(self, part: Part) -> None:
        """Store a part."""
        self._parts[part.number] = part


def _part(content: dict[str, Any]) -> Part:
    """Restore a part from the result of :func:`as_json`."""
    numbers = ("value", "seconds", "metric_seconds")
    values = [Value(**(row | {name: _number(row[name]) for name in numbers})) for row in content["values"]]
    curves = [
        ImageCurve(**(row | {name: tuple(map(_number, row[name])) for name in ("fractions", "probabilities")}))
        for row in content["curves"]
    ]
    return Part(**(content | {"values": values, "curves": curves}))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def as_json(value: Any) -> Any:
    """Convert to JSON types: tuples to lists, numbers that are not finite to null."""
    if isinstance(value, dict):
        return {str(name): as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _differences(before: Any, now: dict[str, Any]) -> str:
    if not isinstance(before, dict):
        return "its settings are not an object"
    names = [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]
    return "; ".join(f"{name} {_change(before.get(name), now.get(name))}" for name in names)


def _change(before: Any, now: Any) -> str:
    if isinstance(before, list) and isinstance(now, list) and max(len(before), len(now)) > 12:
        common = sum(one in now for one in before) if len(before) < 2000 else None
        also = f", {common} in common" if common is not None else ""
        return f"had {counted(len(before), 'entry', 'entries')}, now {len(now)}{also}"
    return f"was {_shown(before)}, is {_shown(now)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + " …"
