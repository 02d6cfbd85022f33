"""Crash-safe checkpoints: each is written atomically, and the previous one is kept.

A checkpoint is one safetensors file: tensors, and in its header a JSON text with
everything else and a digest of it all. Nothing is unpickled on reading. It is
written to a temporary file, flushed to the disk and moved into place, and only
then is the last but one removed, so there is a valid one at any time.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from xai_align._tools.callers_level import callers_level
from xai_align._tools.files.fields import shown
from xai_align._tools.files.plain_json import parse_json
from xai_align._tools.files.tensor_file import read_tensor_file, write_tensor_file
from xai_align.training.digest import digest_of

#: Version of the checkpoint format.
FORMAT = 1
_NAME = re.compile(r"epoch-(\d+)\.safetensors")


class CheckpointWarning(UserWarning):
    """Warning about a checkpoint that can't be used."""


class DamagedCheckpoint(ValueError):
    """Error of a file that is not a complete checkpoint."""


@dataclass(frozen=True)
class Snapshot:
    """Content of a checkpoint: tensors by name, and values of JSON types."""

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]


class Checkpoints:
    """Checkpoints in a folder, from runs with one configuration.

    Args:
        folder: their folder; it need not exist.
        config: the configuration that identifies a run, in JSON types.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = json.loads(json.dumps(config))

    def paths(self) -> list[Path]:
        """Return the paths, oldest first."""
        found = [(int(match[1]), path) for path in self.folder.glob("epoch-*") if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def newest(self) -> tuple[Path, Snapshot] | None:
        """Return the newest complete checkpoint; None if there are none.

        Raises:
            ValueError: it is from a run with another configuration, or there are checkpoints and none is complete.

        Warns:
            CheckpointWarning: a newer one was skipped, with the reason.
        """
        problems = []
        for path in reversed(self.paths()):
            try:
                snapshot = read_checkpoint(path)
            except DamagedCheckpoint as error:
                problems.append(str(error))
                continue
            self._check_config(path, snapshot)
            if problems:
                warnings.warn(
                    f"{'; '.join(problems)}. The older '{path}' is used", CheckpointWarning, stacklevel=callers_level()
                )
            return path, snapshot
        if problems:
            raise ValueError(
                f"no checkpoint in '{self.folder}' can be used: {'; '.join(problems)}; "
                "nothing was changed: choose another folder to start again, or restore a copy of one"
            )
        return None

    def write(self, epoch: int, snapshot: Snapshot) -> Path:
        """Write a snapshot of the end of ``epoch``, and keep only the last of those before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"epoch-{epoch:05d}.safetensors"
        before = [one for one in self.paths() if one != path]
        write_checkpoint(path, Snapshot(snapshot.tensors, {**snapshot.numbers, "config": self.config}))
        for old in before[:-1]:
            old.unlink(missing_ok=True)
        return path

    def _check_config(self, path: Path, snapshot: Snapshot) -> None:
        before = snapshot.numbers.get("config")
        if not same(before, self.config):
            raise ValueError(
                f"'{path}' is of a run with another configuration: {differences(before, self.config)}; "
                "pass the same settings to resume it, or choose another folder to keep it"
            )


def write_checkpoint(path: Path, snapshot: Snapshot) -> None:
    """Write a checkpoint atomically: after a crash the file is as before."""
    tensors = {name: value.detach().cpu() for name, value in snapshot.tensors.items()}
    text = json.dumps(snapshot.numbers)
    header = {"format": str(FORMAT), "numbers": text, "sha256": digest_of(tensors, text)}
    write_tensor_file(path, tensors, header)


def read_checkpoint(path: Path) -> Snapshot:
    """Read a file from :func:`write_checkpoint`.

    Raises:
        DamagedCheckpoint: it is truncated, modified, from a later version, or not a checkpoint.
    """
    try:
        header, tensors = read_tensor_file(path)
    except ValueError as error:
        raise DamagedCheckpoint(str(error)) from error
    if "numbers" not in header:
        raise DamagedCheckpoint(f"'{path}' holds tensors but is not a checkpoint of a fit")
    if header.get("format") != str(FORMAT):
        raise DamagedCheckpoint(f"'{path}' has format {shown(header.get('format'))}; this version reads {FORMAT}")
    if header.get("sha256") != digest_of(tensors, header["numbers"]):
        raise DamagedCheckpoint(f"'{path}' is damaged (its content does not have the digest it was written with)")
    try:
        numbers = parse_json(header["numbers"], str(path))
    except ValueError as error:
        raise DamagedCheckpoint(str(error)) from error
    if not isinstance(numbers, dict):
        raise DamagedCheckpoint(f"'{path}' is damaged (its header holds {shown(numbers)} and no object)")
    return Snapshot(tensors, numbers)


def differences(before: Any, now: Mapping[str, Any], *, at_most: int = 6) -> str:
    """Return the values that changed, the first few of them, as text."""
    if not isinstance(before, Mapping):
        return "it names none"
    names = [name for name in dict.fromkeys((*before, *now)) if not same(before.get(name), now.get(name))]
    parts = []
    for name in names[:at_most]:
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            parts.append(f"{name} ({differences(old, new, at_most=2)})")
        elif _is_digest(old) and _is_digest(new):
            parts.append(f"{name} changed")
        else:
            parts.append(f"{name} was {_shown(old)}, is {_shown(new)}")
    more = [f"and {len(names) - at_most} more"] if len(names) > at_most else []
    return "; ".join([*parts, *more])


def same(a: Any, b: Any) -> bool:
    """Return whether two values of JSON are the same; unlike in Python, true is not 1."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _is_digest(value: Any) -> bool:
    """Return whether a value is a digest, which is not shown."""
    return isinstance(value, str) and len(value) >= 16 and set(value) <= set("0123456789abcdef")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + " …"
