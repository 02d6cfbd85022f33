"""Check that files can be written to a folder, before the work whose results they hold."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from xai_align._tools.files.legible import legible


def check_folder_is_writable(folder: str | Path) -> None:
    """Check that files can be created in a folder, which need not exist yet; nothing is left there.

    Raises:
        OSError: they cannot; the message names the folder and has the system's reason.

    Example::

        check_folder_is_writable("results/first")  # OSError if `results` is a file, or on a read-only disk
    """
    folder = Path(folder)
    there = folder
    try:
        there = _nearest(folder)
        with TemporaryFile(dir=there):  # the system's own answer: permissions alone say too little
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        if there.exists() and not there.is_dir():
            reason = f"'{legible(there)}' is a file" if there != folder else "it is a file"
        raise OSError(f"'{legible(folder)}' cannot be written to: {reason}; choose another folder") from error


def _nearest(folder: Path) -> Path:
    """Return the folder, or the one in which it would be created."""
    for here in (folder, *folder.parents):
        with suppress(FileNotFoundError, NotADirectoryError):  # other errors are the system's reason
            here.lstat()
            return here
    return folder
