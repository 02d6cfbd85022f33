"""Files of an untrusted folder: no link or name makes files outside the folder readable."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath


def file_inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder; links that lead out of the folder are refused.

    Links in the Hugging Face hub's cache, from a snapshot to its blobs, are followed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it lies outside the folder; the message names it.
    """
    if not is_plain_name(name):
        raise ValueError(f"'{folder}' names the file {name[:100]!r}, which does not lie in it")
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"there is no {name} in '{folder}'")
    home, target = folder.resolve(), path.resolve()
    of_hub = home.parent.name == "snapshots" and target.parent == home.parent.parent / "blobs"
    if not target.is_relative_to(home) and not of_hub:
        raise ValueError(f"'{path}' is a link to a file outside its folder; put a copy of that file in its place")
    return path


def is_plain_name(name: str) -> bool:
    """Return whether a relative path stays in its folder on every system.

    Example::

        >>> [is_plain_name(name) for name in ("a.png", "b/a.png", "../a.png", "/a.png", "C:/a.png", "b\\\\a.png")]
        [True, True, False, False, False, False]
    """
    parts = PurePosixPath(name).parts
    odd = "\\" in name or "\0" in name or PureWindowsPath(name).drive != ""
    return bool(parts) and not odd and not name.startswith("/") and ".." not in parts
