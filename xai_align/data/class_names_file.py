"""Class names from a file or folder: lines, CSV, JSON, YAML, TOML, or the sub-folders of an image folder."""

from __future__ import annotations

import csv
import io
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xai_align._tools.counted import counted
from xai_align._tools.files.plain_json import parse_json
from xai_align._tools.files.plain_text import decode_text
from xai_align._tools.listed_names import listed_names

#: Entries of JSON files that hold the names: ours, Hugging Face's and timm's ``config.json``.
_JSON_ENTRIES = ("id2label", "label_names", "class_names", "classes", "labels", "names", "label2id", "class_to_idx")
#: Headings of columns with names and with indices, in lower case.
_NAMES = ("name", "names", "class_name", "class name", "classname", "label_name", "label", "class", "labels", "classes")
#: The first that a table has is its index; pandas writes the row's index below an empty heading.
_INDICES = ("class_index", "class_idx", "class_id", "label_id", "index", "idx", "number", "id", "", "unnamed: 0")
_ENDS_AS_AN_INDEX = re.compile(r".*[_ ](index|idx|id)")
_LARGEST = 64 * 2**20
_NUMBERED = re.compile(r"\s*(\d+)\s*[:,;\t ]\s*(\S.*)")


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Return class names in the order of a model's outputs.

    - a folder: the names of its sub-folders, sorted, as torchvision's ``ImageFolder`` numbers them;
    - ``.json``: a list of names, or of objects with ``id`` and ``name`` such as COCO's ``categories``; a dictionary of
      indices to names (``id2label``) or of names to indices (``class_to_idx``), or an object with one of them, such as
      a model's ``config.json``;
    - ``.yaml``, ``.yml`` (PyYAML has to be installed) and ``.toml``: as JSON, such as the ``names`` of a ``data.yaml``;
    - ``.jsonl``: on each line an object with ``id`` and ``name``, or a name in quotes;
    - ``.csv`` and ``.tsv``: a column of names, and one of indices if its heading says so (``id``, ``class_id``,
      ``index``, ...) or there are no headings;
    - any other file: a name on each line, which may be numbered from 0.

    Raises:
        ValueError: the file can't be read as names; the message says what was found.

    Example::

        read_class_names("photos/")  # ("cat", "dog") for photos/cat/ and photos/dog/
    """
    place = Path(path).expanduser()
    if os.path.isdir(place):
        return _of_folder(place)
    if not os.path.isfile(place):
        raise ValueError(f"there are no class names at '{path}'; give a file or a folder")
    text = _text(place)
    try:
        suffix = place.suffix.lower()
        if suffix in (".json", ".jsonl", ".yaml", ".yml", ".toml"):
            return listed_names(_of_json(_parsed(text, suffix, place), place))
        if suffix in (".csv", ".tsv"):
            return listed_names(_of_table(text, place))
        return listed_names(_of_lines(text))
    except ValueError as error:
        raise ValueError(
            str(error) if f"'{place}'" in str(error) else f"the class names in '{place}': {error}"
        ) from error


def _parsed(text: str, suffix: str, path: Path) -> Any:
    """Return the content of a file of data.

    Raises:
        ValueError: it can't be read as such.
    """
    if suffix == ".json":
        return parse_json(text, str(path))
    if suffix == ".jsonl":
        return [parse_json(line, str(path)) for line in text.splitlines() if line.strip()]
    if suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"'{path}' is not TOML ({error})") from error
    try:
        import yaml
    except ImportError as error:
        raise ValueError(f"'{path}' is YAML, which PyYAML reads: pip install pyyaml, or write JSON") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"'{path}' is not YAML ({' '.join(str(error).split())})") from error


def _of_folder(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not names:
        raise ValueError(f"the folder '{folder}' has no sub-folders; the names of classes are those of sub-folders")
    return tuple(names)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"'{path}' is too large for a file of class names")
        text = decode_text(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(f"the class names in '{path}' are not UTF-8 ({error}); save the file as UTF-8") from error
    except OSError as error:
        raise ValueError(f"'{path}' can't be read ({error.strerror or error})") from error
    if not text.strip():
        raise ValueError(f"the file of class names '{path}' is empty")
    return text


def _of_json(content: Any, path: Path) -> Any:
    if isinstance(content, Mapping):
        categories = content.get("categories")  # of COCO's annotations
        if isinstance(categories, list):
            return _of_categories(categories, path)
        inner = next((content[name] for name in _JSON_ENTRIES if isinstance(content.get(name), Mapping | list)), None)
        if inner is None and isinstance(content.get("pretrained_cfg"), Mapping):
            return _of_json(content["pretrained_cfg"], path)
        content = content if inner is None else inner
        # {"0": ["n01440764", "tench"]}: the last text is the name
        return (
            {key: value[-1] if isinstance(value, list) and value else value for key, value in content.items()}
            if (isinstance(content, Mapping))
            else content
        )
    if isinstance(content, list):
        return _of_categories(content, path) if content and isinstance(content[0], Mapping) else content
    raise ValueError(f"'{path}' holds a {type(content).__name__}; it should be a list or an object of class names")


def _of_categories(categories: list[Any], path: Path) -> Any:
    """Return the names of COCO's ``{"id": 0, "name": "cat"}`` by their numbers, which must be those of outputs."""
    if not all(isinstance(one, Mapping) and isinstance(one.get("name"), str) and "id" in one for one in categories):
        raise ValueError(f"the categories of '{path}' should each have an 'id' and a 'name'")
    indices = [str(one["id"]) for one in categories]
    _check_indices(indices, "id", path)
    return {int(index): one["name"] for index, one in zip(indices, categories, strict=True)}


def _of_lines(text: str) -> Any:
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    indices = [int(one[1]) for one in numbered if one]
    if len(lines) > 1 and sorted(indices) == list(range(len(lines))):
        return {int(one[1]): one[2].strip() for one in numbered if one}
    empty = next((number for number, line in enumerate(lines, 1) if not line), None)
    if empty is not None:
        raise ValueError(f"line {empty} is empty; write one name on each line, in the order of the outputs")
    return lines


def _of_table(text: str, path: Path) -> Any:
    first = text.splitlines()[0]
    tabs = path.suffix.lower() == ".tsv" or "\t" in first
    delimiter = "\t" if tabs else next((sign for sign in ",;|" if sign in first), ",")
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(row)]
    if not rows:
        raise ValueError(f"the table '{path}' has no names")
    width = len(rows[0])
    odd = next((number for number, row in enumerate(rows, 1) if len(row) != width), None)
    if odd is not None:
        raise ValueError(f"row {odd} of '{path}' has {counted(len(rows[odd - 1]), 'column')}, the first has {width}")
    heading = [cell.lower() for cell in rows[0]]
    headed = not any(map(_is_number, heading)) and (
        any(cell in _NAMES or (cell and _names_an_index(cell)) for cell in heading)
        or (len(rows) > 1 and all(_is_number(row[0]) for row in rows[1:]))
    )
    body = rows[1:] if headed else rows
    if not body:
        raise ValueError(f"'{path}' has a heading and no names below it")
    columns = [[row[number] for row in body] for number in range(width)]
    numbers = _index_below(heading, columns) if headed else _index_without_heading(columns)
    others = [number for number in range(width) if number != numbers]
    names = next((number for name in _NAMES if headed for number in others if heading[number] == name), None)
    if names is None and len(others) == 1:
        names = others[0]
    if names is None:
        raise ValueError(
            f"'{path}' has {width} columns, and none of them is headed 'name'; head the column of names so, and a "
            "column of the outputs' numbers, if there is one, 'index'"
        )
    if numbers is None:
        return columns[names]
    _check_indices(columns[numbers], heading[numbers] if headed else "", path)
    return {int(index): name for index, name in zip(columns[numbers], columns[names], strict=True)}


def _index_below(heading: list[str], columns: list[list[str]]) -> int | None:
    """Return the column of numbers headed as an index; "class" and "label" count if there is a column of names."""
    numeric = [number for number, column in enumerate(columns) if any(map(_is_number, column))]
    for name in _INDICES:
        for number in numeric:
            if heading[number] == name:
                return number
    found = next((number for number in numeric if _ENDS_AS_AN_INDEX.fullmatch(heading[number])), None)
    words = [number for number, cell in enumerate(heading) if cell in _NAMES and number not in numeric]
    if found is None and words:
        found = next((number for number in numeric if heading[number] in _NAMES), None)
    return found


def _index_without_heading(columns: list[list[str]]) -> int | None:
    """Return the column of numbers, if it is the only one next to one of names."""
    numeric = [number for number, column in enumerate(columns) if all(map(_is_number, column))]
    return numeric[0] if len(columns) > 1 and len(numeric) == 1 else None


def _check_indices(column: list[str], heading: str, path: Path) -> None:
    """Raise unless these are 0, 1, ..., each once, in any order."""
    count = len(column)
    if all(cell.isdecimal() for cell in column) and sorted(map(int, column)) == list(range(count)):
        return
    shown = ", ".join(column[:4]) + (", ..." if count > 4 else "")
    raise ValueError(
        f"the numbers {f'{heading!r} ' if heading else ''}of '{path}' are {shown}; those of {count} outputs are "
        f"0, 1, ..., {count - 1}, each once, and outputs are counted from 0: correct them, or leave them out and "
        "write the names in the order of the outputs"
    )


def _names_an_index(heading: str) -> bool:
    return heading in _INDICES or _ENDS_AS_AN_INDEX.fullmatch(heading) is not None


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d*)?", cell) is not None
