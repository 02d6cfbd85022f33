"""Files that are complete or absent: written under another name, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; the file appears as ``path`` when the block is left, and not at all if it fails.

    The path is another one at every call, in the same folder, so that several writers of one file each write
    a complete one, and the last to finish replaces the others. A killed process leaves its temporary file behind.

    Raises:
        OSError: it cannot be written, as on a full disk; the message names ``path``.
    """
    waiting = path.with_name(f".{secrets.token_hex(8)}.tmp")  # as short for long names
    try:
        with writing(path):
            yield waiting
            with waiting.open("rb+") as file:
                os.fsync(file.fileno())
            waiting.replace(path)
    finally:
        with suppress(OSError):
            waiting.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in errors of writing it: those of a full disk do not."""
    try:
        yield
    except OSError as error:
        if error.filename == str(path):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # the library's own, also for what the system refuses
            raise OSError(f"'{path}' cannot be written: {error}") from error
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically: after a crash or on a full disk it is complete or as before.

    Text is UTF-8; bytes of a file name that are not text (lone surrogates) are written as ``\\udcXX``.

    Raises:
        OSError: it cannot be written; the message names it.
    """
    with whole_file(path) as waiting:
        waiting.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
