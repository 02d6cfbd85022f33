"""Options of a training loop from the command line: ``--set name=value`` and a TOML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from xai_align._tools.options import parse_options, read_options, with_changes


def option_settings(defaults: type[Any], written: Sequence[str] | None, path: Path | None, who: str) -> dict[str, Any]:
    """Return the options that were set, by the names of their fields.

    Args:
        defaults: the dataclass of options.
        written: ``["schedule=cosine"]``; overrides the file.
        path: a TOML file of options.
        who: the name of the command, for messages.

    Raises:
        ValueError: there is no such option, it is a function, or it can't be read.
    """
    given = ({} if path is None else read_options(path)) | parse_options(written or ())
    functions = {field.name for field in fields(defaults) if field.default is None and _is_function(str(field.type))}
    for name in given:
        if name in functions:
            raise ValueError(f"the option '{name}' of {who} is a function and can only be set in Python")
    try:
        with_changes(None, defaults, given, who)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return given


def _is_function(annotation: str) -> bool:
    return any(kind in annotation for kind in ("Callable", "MakeOptimizer", "ReadBatch", "Teacher"))
