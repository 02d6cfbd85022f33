"""Names given by users as parts of file names: short enough for file systems, and distinct if the names are."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

#: Longest part in bytes. File systems take 255 for a whole name: a stem, what was asked, a method and a suffix.
LONGEST_PART = 80


def name_part(name: str, *, longest: int = LONGEST_PART) -> str:
    """Return a name of at most this many bytes of UTF-8. A longer one is truncated, with a digest at its end.

    Example::

        >>> name_part("human"), name_part("a" * 300)[-12:], len(name_part("a" * 300))
        ('human', 'aaa-9835fa6b', 80)
    """
    data = name.encode("utf-8", "backslashreplace")
    if len(data) <= longest:
        return name
    digits = sha256(data).hexdigest()[:8]
    return f"{data[: longest - 9].decode('utf-8', 'ignore')}-{digits}"


def distinct(names: Iterable[str]) -> list[str]:
    """Return names of which none are the same, also where a file system ignores case: a number follows the later ones.

    Example::

        >>> distinct(["a", "A", "b", "a"])
        ['a', 'A-2', 'b', 'a-3']
    """
    taken: set[str] = set()
    found = []
    for name in names:
        free, number = name, 2
        while free.casefold() in taken:
            free, number = f"{name}-{number}", number + 1
        taken.add(free.casefold())
        found.append(free)
    return found
