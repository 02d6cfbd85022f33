"""Strict reading of JSON files: with limits on size and depth, and without duplicate keys."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from xai_align._tools.files.plain_text import decode_text

#: Largest JSON file that is read, in bytes.
LARGEST = 256 * 2**20
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
#: Control characters, and those that change the direction of the text after them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
#: Deepest nesting of lists and objects.
DEEPEST = 64


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.

    Raises:
        ValueError: it is not JSON, too large or too deep, or cannot be read; the message names it.

    Example::

        >>> import tempfile
        >>> from pathlib import Path
        >>> file = Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = file.write_text('{"a": [1, 2]}')
        >>> read_json(file)
        {'a': [1, 2]}
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise ValueError(
                f"'{path}' is too large for a JSON file: it has {size} bytes, at most {LARGEST} are allowed"
            )
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror or error})") from error
    return parse_json(data, str(path))


def parse_json(text: str | bytes, source: str) -> Any:
    """Return the value of a JSON text.

    Args:
        text: a string, or bytes in UTF-8 or UTF-16 (:mod:`~xai_align._tools.files.plain_text`).
        source: its file, for messages.

    Raises:
        ValueError: it is not JSON, or too deep, or an object has a key twice; the message names the source.

    Example::

        >>> parse_json('{"a": 1, "a": 2}', "config.json")
        Traceback (most recent call last):
        ...
        ValueError: 'config.json' is damaged or not JSON (the key 'a' occurs twice)
    """
    try:
        decoded = decode_text(text) if isinstance(text, bytes) else text
        value = json.loads(decoded, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(_too_deep(source)) from None
    except ValueError as error:
        raise ValueError(f"'{source}' is damaged or not JSON ({in_one_clause(error)})") from error
    _check_depth(value, source)
    return value


def in_one_clause(error: BaseException, *, length: int = 160) -> str:
    """Return the first line of an error's message, truncated, as a clause that fits into a sentence.

    Example::

        >>> in_one_clause(ValueError("no such key. Look again\\nand again"))
        'no such key; Look again'
    """
    lines = printable(str(error)).strip().splitlines() or [type(error).__name__]
    line = lines[0].strip().rstrip(".:")
    for end in (". ", "! ", "? "):
        line = line.replace(end, "; ")
    return line if len(line) <= length else line[:length].rstrip() + " …"


def printable(text: str) -> str:
    """Return a text without the escape sequences of terminals and other control characters, line breaks kept.

    Bytes of file names that are not text become ``\\udce9``, which a terminal accepts.

    Example::

        >>> printable("\\x1b[1mWeights only\\x1b[0m load failed\\x07")
        'Weights only load failed'
    """
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _CONTROL.sub("", _ESCAPE.sub("", text))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} occurs twice")
        found[key] = value
    return found


def _check_depth(value: Any, source: str) -> None:
    level, depth = [value], 0
    while level:
        level = [inner for one in level for inner in _inside(one)]
        depth += 1
        if depth > DEEPEST:
            raise ValueError(_too_deep(source))


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _too_deep(source: str) -> str:
    return f"'{source}' is damaged (its JSON is nested deeper than {DEEPEST} levels)"
