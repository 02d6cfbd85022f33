"""Options in a dataclass, set by keyword, by ``name=value``, or by a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from xai_align._tools.did_you_mean import did_you_mean
from xai_align._tools.files.plain_text import decode_text

#: A dataclass of options, each with a default.
O = TypeVar("O")  # noqa: E741


def with_changes(
    options: O | None, defaults: type[O], changed: Mapping[str, Any], who: str, also: Sequence[str] = ()
) -> O:
    """Return the options with some fields changed.

    Args:
        options: the options to start from; None: the defaults.
        defaults: their class.
        changed: values by field name.
        who: the function or class that takes the options, for the message.
        also: further parameters of its signature, which may have been meant.

        Raises:
            TypeError: there is no such option, or ``options`` are of another class.
    """
    if options is not None and not isinstance(options, defaults):
        raise TypeError(f"options of {who} are {type(options).__name__}; give {defaults.__name__}(...)")
    known = [field.name for field in fields(defaults)]  # type: ignore[arg-type]
    for name in changed:
        if name not in known:
            near = did_you_mean(name, [*known, *also])
            raise TypeError(f"{who} has no option '{name}'{near} {defaults.__name__} has {', '.join(known)}")
    return replace(options if options is not None else defaults(), **changed)  # type: ignore[type-var]


def parse_options(written: Sequence[str]) -> dict[str, Any]:
    """Return the values of ``["schedule=cosine", "betas=[0.9, 0.95]"]``: TOML values; a bare word is a string.

    Raises:
        ValueError: one of them is not ``name=value``, or a name occurs twice.
    """
    found: dict[str, Any] = {}
    for one in written:
        name, equals, value = (part.strip() for part in one.partition("="))
        if not equals or not name.isidentifier() or not value:
            raise ValueError(f"'{one}' does not set an option; write name=value, e.g. schedule=cosine")
        if name in found:
            raise ValueError(f"the option '{name}' is set twice")
        found[name] = _toml_value(value)
    return found


def read_options(path: Path) -> dict[str, Any]:
    """Return the options of a TOML file, one ``name = value`` per line.

    Raises:
        ValueError: there is no such file, or it is not TOML.
    """
    try:
        return tomllib.loads(decode_text(path.read_bytes()))
    except OSError as error:
        raise ValueError(f"the options '{path}' cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the options '{path}' are not TOML: {error}") from None


def _toml_value(written: str) -> Any:
    if written in ("none", "None"):
        return None
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        return written
    return tuple(value) if isinstance(value, list) else value
