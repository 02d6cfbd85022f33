"""Names of files as text that can be printed and written: names may contain any bytes, terminals and JSON only text."""

from __future__ import annotations

import os
from pathlib import PurePath


def legible(name: str | PurePath) -> str:
    """Return a file name or path as text. Bytes that are not UTF-8, and control characters, become ``\\xe9``.

    Example::

        legible(os.fsdecode(b"caf\\xe9.jpg"))  # "caf\\\\xe9.jpg", twelve characters
    """
    try:
        text = os.fsencode(str(name)).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # lone surrogates that stand for no byte
        text = str(name).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
