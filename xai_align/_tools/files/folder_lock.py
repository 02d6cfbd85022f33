"""Lock of a run's folder, so that two runs do not write into one at the same time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xai_align._tools.files.whole_file import writing

#: Name of the file that is locked; it holds the number of the process, and is removed at the end.
LOCK = ".running"


@contextmanager
def locked_folder(folder: Path | None, what: str = "run") -> Iterator[None]:
    """Hold the lock of a folder. The system releases it if the process ends, so that a killed run leaves none.

    Without effect where the system has no such locks, and for None.

    Args:
        folder: it is created if it does not exist.
        what: the kind of run that holds such locks, for the message.

    Raises:
        ValueError: another run holds it; the message names the folder and the process.
        OSError: the folder cannot be written to.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        fcntl = None  # type: ignore[assignment]
    if folder is None or fcntl is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            process = file.read(20).strip()
            who = f"another {what} (process {process})" if process.isdigit() else f"another {what}"
            raise ValueError(
                f"{who} is writing to '{folder}'; wait until it has ended, or choose another folder"
            ) from error
        except OSError:  # a file system without locks
            yield
            return
        try:
            with writing(path):
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), str(os.getpid()).encode())  # closing writes nothing more, which would fail too
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is still locked
