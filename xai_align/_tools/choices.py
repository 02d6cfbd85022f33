"""Options with a fixed set of names."""

from __future__ import annotations

from collections.abc import Iterable


def check_choice(name: str, value: str, known: Iterable[str]) -> str:
    """Return ``value`` if it is one of the known names.

    Raises:
        ValueError: it is not.
    """
    choices = list(known)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; give " + " or ".join(f"'{choice}'" for choice in choices))
    return value
