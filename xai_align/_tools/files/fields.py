"""Schemas for files: rules for plain values, combined into records and tables.

A rule takes a value and its name in the file, and returns a description of what is wrong with it, or None. Names that
are not listed are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from xai_align._tools.counted import counted

#: ``(value, name) -> error message or None``.
Rule: TypeAlias = Callable[[Any, str], str | None]


def check_fields(value: Any, rule: Rule, source: str) -> None:
    """Raise if a rule does not allow a value from a file.

    Args:
        value: plain values, as JSON gives them.
        rule: the rule for it.
        source: the file, for the message.

    Raises:
        ValueError: the rule does not allow it; one sentence with the file, the name inside it, what was found and what
            was expected.

    Example::

        >>> check_fields({"width": "wide"}, record({"width": whole(1, 64)}), "config.json")
        Traceback (most recent call last):
        ...
        ValueError: 'config.json' is invalid: width is 'wide', expected a whole number from 1 to 64
    """
    if complaint := rule(value, ""):
        raise ValueError(f"'{source}' is invalid: {complaint}")


def whole(lowest: int, highest: int) -> Rule:
    """Allow integers of a range, ends included; not True or 1.0."""

    def rule(value: Any, name: str) -> str | None:
        fits = type(value) is int and lowest <= value <= highest
        return None if fits else _wrong(value, name, f"a whole number from {lowest} to {highest}")

    return rule


def number(lowest: float = -math.inf, highest: float = math.inf, *, finite: bool = True) -> Rule:
    """Allow numbers in a range, ends included; NaN and infinity only if ``finite`` is False."""
    ends = "" if (lowest, highest) == (-math.inf, math.inf) else f" from {lowest:g} to {highest:g}"
    expected = f"a finite number{ends}" if finite else "a number"

    def rule(value: Any, name: str) -> str | None:
        if type(value) is float and not math.isfinite(value):
            return _wrong(value, name, expected) if finite else None
        exact = type(value) is float or (type(value) is int and abs(value) <= 2**53)
        fits = exact and lowest <= value <= highest
        return None if fits else _wrong(value, name, expected)

    return rule


def text(pattern: str = r"[^\x00-\x1f]*", *, longest: int = 1000, expected: str = "a text of one line") -> Rule:
    """Allow strings that fully match a pattern."""
    compiled = re.compile(pattern)

    def rule(value: Any, name: str) -> str | None:
        fits = isinstance(value, str) and len(value) <= longest and compiled.fullmatch(value) and _encodes(value)
        return None if fits else _wrong(value, name, expected)

    return rule


def one_of(*choices: Any) -> Rule:
    """Allow these values, with exactly these types."""

    def rule(value: Any, name: str) -> str | None:
        fits = any(type(value) is type(one) and value == one for one in choices)
        return None if fits else _wrong(value, name, "one of " + ", ".join(map(repr, choices)))

    return rule


def flag() -> Rule:
    """Allow True and False."""
    return one_of(True, False)


def nothing(value: Any, name: str) -> str | None:
    """Allow null."""
    return None if value is None else _wrong(value, name, "null")


def either(*rules: Rule) -> Rule:
    """Allow what any of the rules allows."""

    def rule(value: Any, name: str) -> str | None:
        complaints = [one(value, name) for one in rules]
        if None in complaints:
            return None
        of_right_kind = [one for one in complaints if one and not one.startswith(_start(value, name))]
        if of_right_kind:  # a list or object with wrong content
            return of_right_kind[0]
        return _start(value, name) + " or ".join(one.removeprefix(_start(value, name)) for one in complaints if one)

    return rule


def listed(item: Rule, least: int = 0, most: int = 1_000_000) -> Rule:
    """Allow lists with ``least`` to ``most`` items that are all allowed."""

    def rule(value: Any, name: str) -> str | None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            return _wrong(value, name, f"a list of {least} to {most} items")
        return next((found for i, one in enumerate(value) if (found := item(one, f"{name}[{i}]"))), None)

    return rule


def record(required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None) -> Rule:
    """Allow objects with all required names, any of the optional ones, and no others."""
    return _record(required, optional or {}, more=False)


def record_with_more(required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None) -> Rule:
    """Allow objects like :func:`record` with any further names, for third-party files that are read in part."""
    return _record(required, optional or {}, more=True)


def _record(required: Mapping[str, Rule], optional: Mapping[str, Rule], *, more: bool) -> Rule:
    known = {**optional, **required}

    def rule(value: Any, name: str) -> str | None:
        if not isinstance(value, dict):
            return _wrong(value, name, "an object")
        for key in required:
            if key not in value:
                return f"{_joined(name, key)} is missing"
        for key, one in value.items():
            if key not in known:
                if more:
                    continue
                return f"{_joined(name, key[:60])} is not a name that is allowed in a file"
            if complaint := known[key](one, _joined(name, key)):
                return complaint
        return None

    return rule


def table_of(item: Rule) -> Rule:
    """Allow objects with any names and allowed values."""

    def rule(value: Any, name: str) -> str | None:
        if not isinstance(value, dict):
            return _wrong(value, name, "an object")
        return next((found for key, one in value.items() if (found := item(one, _joined(name, key[:60])))), None)

    return rule


def anything(value: Any, name: str) -> str | None:
    """Allow every plain value."""
    return None


def like(example: Any) -> Rule:
    """Allow values of the same structure as ``example``: the same names and lengths, and the same types."""
    if isinstance(example, Mapping):
        return record({key: like(one) for key, one in example.items()})
    if isinstance(example, list | tuple):

        def rule(value: Any, name: str) -> str | None:
            if not isinstance(value, list) or len(value) != len(example):
                return _wrong(value, name, f"a list of {len(example)} items")
            return next(
                (found for i, one in enumerate(value) if (found := like(example[i])(one, f"{name}[{i}]"))), None
            )

        return rule
    if isinstance(example, bool):
        return flag()
    if isinstance(example, int):
        return whole(-(2**63), 2**63)
    if isinstance(example, float):
        return number(finite=math.isfinite(example))
    return text() if isinstance(example, str) else nothing if example is None else anything


def shown(value: Any) -> str:
    """Return a value as shown in messages: on one line, and short."""
    if isinstance(value, dict):
        return f"an object with {counted(len(value), 'name')}"
    if isinstance(value, list):
        return f"a list of {len(value)} items"
    if type(value) is int and abs(value) > 10**18:
        return f"a whole number of {value.bit_length()} bits"
    short = repr(value[:60]) if isinstance(value, str) else "null" if value is None else repr(value)
    short = short.encode("utf-8", "backslashreplace").decode("utf-8")
    for end in (". ", "! ", "? "):
        short = short.replace(end, "; ")
    return short


def _start(value: Any, name: str) -> str:
    return f"{name or 'the whole'} is {shown(value)}, expected "


def _wrong(value: Any, name: str, expected: str) -> str:
    return _start(value, name) + expected


def _joined(name: str, key: str) -> str:
    key = key if re.fullmatch(r"[\w./-]+", key, re.ASCII) else shown(key)
    return f"{name}.{key}" if name else key


def _encodes(value: str) -> bool:
    """Return whether the text can be encoded as UTF-8, which a lone surrogate can't."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
