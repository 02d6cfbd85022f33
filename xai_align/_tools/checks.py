"""Checks of arguments: each returns the value, or raises an error that says what it must be and what was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from xai_align._tools.did_you_mean import did_you_mean


def check_choice(name: str, value: Any, known: Iterable[str]) -> str:
    """Return one of the known names.

    Raises:
        ValueError: the value is none of them.
    """
    choices = list(known)
    if not isinstance(value, str) or value not in choices:
        *others, last = [f"'{choice}'" for choice in choices]
        wanted = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{name} must be {wanted}, got {value!r}{did_you_mean(str(value), choices)}".rstrip("."))
    return value


def check_integer(name: str, value: Any, *, least: int = 1) -> int:
    """Return an integer that is ``least`` or more; booleans are not integers.

    Raises:
        ValueError: the value is something else.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        wanted = {0: "a non-negative integer", 1: "a positive integer"}.get(least, f"an integer of at least {least}")
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return int(value)


def check_number(
    name: str,
    value: Any,
    *,
    least: float = 0.0,
    most: float = inf,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """Return a finite number within bounds.

    Args:
        name: name of the option, for the message.
        value: the number; integers are converted to floats, booleans are not numbers.
        least: the smallest number allowed.
        most: the largest number allowed.
        above: an exclusive lower bound, in place of ``least``.
        below: an exclusive upper bound, in place of ``most``.

    Raises:
        ValueError: the value is not a finite number within the bounds.

    Example::

        >>> from xai_align.align import check_number
        >>> check_number("share", 0.5, most=1)
        0.5
        >>> check_number("share", 2, most=1)
        Traceback (most recent call last):
        ValueError: share must be a number in [0, 1], got 2
    """
    number = isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    low, high = least if above is None else above, most if below is None else below
    inside = number and (value >= low if above is None else value > low)
    if not inside or not (value <= high if below is None else value < high):
        raise ValueError(f"{name} must be {_range(low, high, above is None, below is None)}, got {value!r}")
    return float(value)


def check_fractions(name: str, values: Iterable[float]) -> tuple[float, ...]:
    """Return one or more numbers in [0, 1].

    Raises:
        ValueError: there are none, or some lie outside.
    """
    given = numbers_in(name, values)
    if not given or not all(0 <= value <= 1 for value in given):
        raise ValueError(f"{name} must be one or more numbers in [0, 1], got {list(given)}")
    return given


def numbers_in(name: str, values: Any) -> tuple[float, ...]:
    """Return a sequence of numbers as floats; the range is for the caller to check.

    Raises:
        ValueError: it is not a sequence, or holds something else.
    """
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be several numbers, such as (0.1, 0.5), got {values!r}") from None


def check_seed(seed: Any) -> int:
    """Return a seed of PyTorch's generators: an integer of 64 bits, with or without a sign.

    Raises:
        ValueError: it is something else.
    """
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not whole or not -(2**63) <= int(seed) < 2**64:
        raise ValueError(f"seed must be an integer of at most 64 bits, got {seed!r}")
    return int(seed)


def check_finite(name: str, values: Tensor) -> None:
    """Raise if a tensor ``[N, ...]`` holds NaN or infinity.

    Raises:
        ValueError: it does; the message lists the examples.
    """
    if not bool(values.isfinite().all()):
        where = f"; example(s) {listed(not_finite(values))} hold" if values.dim() > 1 else ", got"
        raise ValueError(f"{name} must be finite{where} NaN or infinity")


def check_not_empty(inputs: Sequence[Tensor]) -> None:
    """Raise if a batch has no examples.

    Raises:
        ValueError: it has none.

    Example::

        check_not_empty([images])  # ValueError for images[:0]
    """
    if any(len(x) == 0 for x in inputs):
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        raise ValueError(f"the inputs have shape {shapes}; give at least one example")


def not_finite(values: Tensor) -> list[int]:
    """Return the indices of the examples of a tensor ``[N, ...]`` that hold NaN or infinity."""
    return (~values.detach().isfinite()).reshape(len(values), -1).any(1).nonzero().flatten().tolist()


def listed(examples: Sequence[int]) -> str:
    """Format indices of examples: at most five."""
    return ", ".join(map(str, examples[:5])) + (" …" if len(examples) > 5 else "")


def _range(low: float, high: float, closed_below: bool, closed_above: bool) -> str:
    if high < inf:
        return f"a number in {'[' if closed_below else '('}{low:g}, {high:g}{']' if closed_above else ')'}"
    if low == 0:
        return "a non-negative number" if closed_below else "a positive number"
    return f"a number of at least {low:g}" if closed_below else f"a number above {low:g}"
