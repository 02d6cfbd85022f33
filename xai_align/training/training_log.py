"""Log files of a fit: ``metrics.csv``, ``metrics.jsonl``, and TensorBoard events if it is installed.

There is one row for each validation and each end of an epoch. A resumed run first
writes the rows of its checkpoint, so that rows of an interrupted epoch are not
duplicated. If a row has a name that earlier ones did not have, the table is
rewritten with an additional column.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xai_align._tools.files.whole_file import write_whole, writing

#: Values of a row of the log, by name.
Row = dict[str, Any]


class TrainingLog:
    """Log of rows, in files and for a listener.

    Args:
        folder: folder of the files; None: no files.
        listener: called with each new row.
    """

    def __init__(self, folder: Path | None, listener: Callable[[Row], None] | None = None) -> None:
        self._folder, self._listener = folder, listener
        self._board: Any = None
        self._rows: list[Row] = []
        self._names: list[str] = []

    def begin(self, rows: Sequence[Row]) -> None:
        """Start the files with the given rows."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._rows = list(rows)
        self._write_table()
        _write(self._jsonl, "".join(map(_json_line, rows)))
        self._board = _tensorboard(self._folder / "tensorboard", rows[-1]["step"] + 1 if rows else 0)

    def add(self, row: Row) -> None:
        """Write a row at once."""
        if self._listener is not None:
            self._listener(dict(row))
        if self._folder is None:
            return
        self._rows.append(row)
        if set(row) <= set(self._names):
            _append(self._csv, self._csv_row(row))
        else:
            self._write_table()
        _append(self._jsonl, _json_line(row))
        if self._board is not None:
            for name, value in row.items():
                if isinstance(value, int | float) and name not in ("step", "epoch"):
                    self._board.add_scalar(name, value, row["step"])
            self._board.flush()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self._board is not None:
            self._board.close()

    def _write_table(self) -> None:
        self._names = list(dict.fromkeys(name for row in self._rows for name in row))
        head = [_csv_line(self._names)] if self._names else []
        _write(self._csv, "".join([*head, *map(self._csv_row, self._rows)]))

    def _csv_row(self, row: Row) -> str:
        return _csv_line(["" if row.get(name) is None else row[name] for name in self._names])

    @property
    def _csv(self) -> Path:
        assert self._folder is not None
        return self._folder / "metrics.csv"

    @property
    def _jsonl(self) -> Path:
        assert self._folder is not None
        return self._folder / "metrics.jsonl"


def _write(path: Path, text: str) -> None:
    """Write a new file that replaces an existing one; the target of a symbolic link is not changed."""
    if path.is_dir() and not path.is_symlink():
        raise ValueError(
            f"'{path}' is a folder, and the rows of the fit belong there; choose another folder, or move it"
        )
    path.unlink(missing_ok=True)
    write_whole(path, text)


def _append(path: Path, text: str) -> None:
    with writing(path), path.open("a", encoding="utf-8", newline="") as file:
        file.write(text)


def _csv_line(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _json_line(row: Row) -> str:
    """Return a row as a line of JSON, with null for values that are not finite."""
    known = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
    return json.dumps(known) + "\n"


def _tensorboard(folder: Path, first_step: int) -> Any:
    """Return TensorBoard's writer; None if it is not installed. Events of repeated steps are purged."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first_step)
