"""References to models, typed by a user or read from a file.

A user may name any code. A file may name an architecture of timm; ``package.module:function`` only if the user
trusts the file, as importing and calling it runs code; another saved folder never, so that no folder refers back to
itself. Modules in the current directory are importable for typed references only.
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
#: Prefixes of references to saved folders and files, which contain references themselves.
FOLDERS = ("pinet:", "align:", "fei:")
#: Instruction for trusting a file, for messages.
TRUST = "pass trust=True (on the command line --trust-code)"

_TIMM = re.compile(r"timm:[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
_typed_here: ContextVar[bool] = ContextVar("typed_here", default=False)
_from_file: ContextVar[bool] = ContextVar("from_file", default=False)
_reading: ContextVar[tuple[Path, ...]] = ContextVar("reading", default=())


def check_reference_in_file(reference: str, source: str | os.PathLike[str], *, trust: bool, known: str = "") -> None:
    """Raise if a reference is not allowed in a file.

    Args:
        reference: the reference in the file, without weights.
        source: the file, for the message.
        trust: whether ``package.module:function`` is allowed.
        known: another name of the library that is allowed.

    Raises:
        ValueError: it is not allowed; one sentence with the reference and, if that helps, how to trust the file.

    Example::

        >>> check_reference_in_file("timm:resnet18", "config.json", trust=False)
        >>> check_reference_in_file("os:abort", "config.json", trust=False)
        Traceback (most recent call last):
        ...
        ValueError: 'config.json' names the code 'os:abort', which is run only if you trust the file: pass trust=True \
(on the command line --trust-code)
    """
    if _TIMM.fullmatch(reference) or (known and reference == known):
        return
    if reference.strip().lower().startswith(FOLDERS):
        raise ValueError(f"'{source}' names {shown(reference)}, and a saved folder cannot refer to another one")
    if reference.startswith("timm:") or not FACTORY.fullmatch(reference):
        raise ValueError(
            f"'{source}' names {shown(reference)}, and a file may name timm:NAME, with a plain name of timm's, "
            "or package.module:function"
        )
    if not trust:
        raise ValueError(
            f"'{source}' names the code {shown(reference)}, which is run only if you trust the file: {TRUST}"
        )


def is_code(reference: str) -> bool:
    """Return whether a reference is ``package.module:function``, which a file may name only if the user trusts it.

    Example::

        >>> is_code("my_package.networks:load"), is_code("timm:resnet18")
        (True, False)
    """
    return bool(FACTORY.fullmatch(reference)) and not _TIMM.fullmatch(reference)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Mark a saved folder as being read, which detects cycles, and references in the block as read from a file.

    Raises:
        ValueError: it is being read already.
    """
    home = folder.resolve()
    if home in _reading.get():
        raise ValueError(f"'{folder}' refers to itself")
    tokens = _reading.set((*_reading.get(), home)), _from_file.set(True)
    try:
        yield
    finally:
        _reading.reset(tokens[0])
        _from_file.reset(tokens[1])


@contextmanager
def typed_on_the_command_line() -> Iterator[None]:
    """Allow references in the block to name modules in the current directory, as ``python -m`` does."""
    token = _typed_here.set(True)
    try:
        yield
    finally:
        _typed_here.reset(token)


@contextmanager
def importing_a_reference() -> Iterator[None]:
    """Search the current directory last for references typed on the command line, and not at all for a file's.

    Python itself searches there in an interactive session and for ``python -c``; that is unchanged for typed
    references, and disabled while a reference from a file is imported. Directories in PYTHONPATH are kept.
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
        sys.path[:] = [*(one for one in sys.path if one not in during), *before]  # keeps what the code added
