"""References to models: those that a person typed, and those that stand in a file.

A person may name any code. A file may name an architecture of timm; ``package.module:function`` only where the person
said that the file is trusted, as importing and calling that runs code; another saved folder never, so that no folder
leads back to itself. Modules in the current directory are found for what was typed, and for nothing else.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from xai_align._tools.files.fields import shown

#: A function that makes a model: ``package.module:function``.
FACTORY = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")
#: References that lead into a folder with references of its own.
FOLDERS = ("pinet:", "align:")
#: How a file is trusted, for messages.
TRUST = "say trust=True (on the command line --trust-code)"

_TIMM = re.compile(r"timm:[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
_typed_here: ContextVar[bool] = ContextVar("typed_here", default=False)
_from_file: ContextVar[bool] = ContextVar("from_file", default=False)
_reading: ContextVar[tuple[Path, ...]] = ContextVar("reading", default=())


def check_reference_in_file(reference: str, source: str | os.PathLike[str], *, trust: bool, known: str = "") -> None:
    """Raise if a reference may not stand in a file.

    Args:
        reference: what the file names, without weights.
        source: the file, for the message.
        trust: whether ``package.module:function`` is allowed.
        known: a name of ours that is allowed too.

    Raises:
        ValueError: it may not; one sentence with the reference and, where that helps, how to trust the file.

    Example::

        >>> check_reference_in_file("timm:resnet18", "config.json", trust=False)
        >>> check_reference_in_file("os:abort", "config.json", trust=False)
        Traceback (most recent call last):
        ...
        ValueError: 'config.json' names the code 'os:abort', which is run only if you trust the file: say trust=True \
(on the command line --trust-code)
    """
    if _TIMM.fullmatch(reference) or (known and reference == known):
        return
    if reference.strip().lower().startswith(FOLDERS):
        raise ValueError(f"'{source}' names {shown(reference)}, and a saved folder can't stand on another one")
    if reference.startswith("timm:") or not FACTORY.fullmatch(reference):
        raise ValueError(
            f"'{source}' names {shown(reference)}, and a file may name timm:NAME, with a plain name of timm's, "
            "or package.module:function"
        )
    if not trust:
        raise ValueError(
            f"'{source}' names the code {shown(reference)}, which is run only if you trust the file: {TRUST}"
        )


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Mark a saved folder as being read, so that code it names can't lead back to it, and references as a file's.

    Raises:
        ValueError: it is being read already.
    """
    home = folder.resolve()
    if home in _reading.get():
        raise ValueError(f"'{folder}' leads back to itself, by the reference that it names")
    tokens = _reading.set((*_reading.get(), home)), _from_file.set(True)
    try:
        yield
    finally:
        _reading.reset(tokens[0])
        _from_file.reset(tokens[1])


@contextmanager
def typed_on_the_command_line() -> Iterator[None]:
    """Let references that were typed name modules in the current directory, as they do for ``python -m``."""
    token = _typed_here.set(True)
    try:
        yield
    finally:
        _typed_here.reset(token)


@contextmanager
def importing_a_reference() -> Iterator[None]:
    """Search the current directory, last of all places, for what was typed on the command line; not for a file's.

    Python itself searches there in an interactive session and for ``python -c``; that is left as it is for what was
    typed, and taken away while a reference from a file is imported. Places named in PYTHONPATH stay.
    """
    before = list(sys.path)
    here = os.path.realpath(os.getcwd())
    if _from_file.get():
        named = {os.path.realpath(one) for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one}
        sys.path[:] = [one for one in before if os.path.realpath(one or os.curdir) != here or here in named]
    elif _typed_here.get():
        sys.path.append(here)
    during = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = [*(one for one in sys.path if one not in during), *before]  # what the code added stays
