"""A number and what is counted, in the singular for one."""

from __future__ import annotations


def counted(number: int, thing: str, things: str | None = None) -> str:
    """Return a number with its noun: ``"1 image"``, ``"2 images"``.

    Args:
        number: how many.
        thing: the noun in the singular.
        things: its plural; None: with s, or es behind ss, x and tch.

    Example::

        >>> counted(1, "class"), counted(0, "class"), counted(3, "labelled image")
        ('1 class', '0 classes', '3 labelled images')
    """
    if number == 1:
        return f"1 {thing}"
    return f"{number} {things or thing + ('es' if thing.endswith(('ss', 'x', 'tch')) else 's')}"
