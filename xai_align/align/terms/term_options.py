"""Checks of the options of loss terms, and the two kinds of averages."""

from __future__ import annotations

from math import isfinite
from typing import Literal, get_args

#: "image": equal weight for each image. "class": for each class (the sum of class means over the number of classes).
Average = Literal["image", "class"]
AVERAGES: tuple[Average, ...] = get_args(Average)


def check_number(option: str, value: float, *, least: float = 0.0, most: float = float("inf")) -> None:
    """Raise if ``value`` is not a finite number between ``least`` and ``most``.

    Args:
        option: its name, for the message.
        value: as the user gave it.
        least: the smallest number allowed.
        most: the largest.

    Raises:
        ValueError: it is not; the message names the option, the value and the range.

    Example::

        >>> from xai_align.align import check_number
        >>> check_number("share", 0.5, most=1.0)
        >>> check_number("share", 2, most=1.0)
        Traceback (most recent call last):
        ValueError: share is 2; give a number between 0 and 1
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and isfinite(value) and least <= value <= most):
        allowed = f"of at least {least:g}" if most == float("inf") else f"between {least:g} and {most:g}"
        raise ValueError(f"{option} is {value!r}; give a number {allowed}")
