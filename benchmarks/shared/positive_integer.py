"""Type of options that count something: a positive integer."""

from __future__ import annotations

from argparse import ArgumentTypeError


def positive_integer(text: str) -> int:
    """Return the number, for ``add_argument(type=)``: with ``int``, -5 would be a slice that leaves out the last 5.

    Raises:
        ArgumentTypeError: it is not a positive integer.
    """
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ArgumentTypeError(f"'{text}' is not a positive integer; give 1 or more")
    return int(text)
