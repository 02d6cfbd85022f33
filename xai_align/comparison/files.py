"""Output files of a comparison: every value, every curve, the table, the whole record."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from xai_align._tools.checks import check_choice
from xai_align._tools.files.whole_file import whole_file, write_whole
from xai_align._tools.optional_package import optional_package
from xai_align.comparison.result import Comparison, Summary
from xai_align.comparison.store import Part, Value, as_json

if TYPE_CHECKING:
    from pathlib import Path

#: File formats of the tables of values and curves.
FORMATS = ("parquet", "csv")
_IN_PARQUET = partial(optional_package, "compare", "pyarrow", "tables in Parquet")
_VALUES = {field.name: float if field.type == "float" else str for field in fields(Value)}
_CURVES = {"image": str, "question": str, "method": str, "perturbation": str, "fraction": float, "probability": float}
_Writer = Callable[[Iterable[dict[str, Any]]], None]


def available_format(name: str | None) -> str:
    """Return the format in which tables are written: Parquet, or CSV without its library, if None is named.

    Raises:
        ValueError: there is no such format.
        ModuleNotFoundError: its library is not installed.
    """
    if name is None:
        return "parquet" if find_spec("pyarrow") else "csv"
    check_choice("the format of tables", name, FORMATS)
    if name == "parquet":
        with _IN_PARQUET():
            import pyarrow  # noqa: F401
    return name


def write_tables(parts: Iterable[Part], out: Path, form: str) -> str:
    """Write ``values`` and ``curves``, one row per number, part by part; return the name of the file of values."""
    with _table(out / f"values.{form}", _VALUES) as values, _table(out / f"curves.{form}", _CURVES) as curves:
        for part in parts:
            values(vars(value) for value in part.values)
            curves(_curve_rows(part))
    return f"values.{form}"


def write_record(comparison: Comparison, out: Path) -> None:
    """Write ``table.csv`` and ``results.json``."""
    with _table(out / "table.csv", {field.name: str for field in fields(Summary)}) as summaries:
        summaries(vars(summary) for summary in comparison.summaries)
    content = as_json(asdict(comparison))
    write_whole(out / "results.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _curve_rows(part: Part) -> Iterator[dict[str, Any]]:
    for curve in part.curves:
        about = {
            "image": curve.image,
            "question": curve.question,
            "method": curve.method,
            "perturbation": curve.perturbation,
        }
        for fraction, probability in zip(curve.fractions, curve.probabilities, strict=True):
            yield about | {"fraction": fraction, "probability": probability}


@contextmanager
def _table(path: Path, columns: Mapping[str, type]) -> Iterator[_Writer]:
    """Yield a function that writes rows; the file appears when all are written."""
    with (
        whole_file(path) as waiting,
        _csv(waiting, columns) if path.suffix == ".csv" else _parquet(waiting, columns) as write,
    ):
        yield write


@contextmanager
def _csv(path: Path, columns: Mapping[str, type]) -> Iterator[_Writer]:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        yield writer.writerows


@contextmanager
def _parquet(path: Path, columns: Mapping[str, type]) -> Iterator[_Writer]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.float64() if kind is float else pa.string()) for name, kind in columns.items()])
    with pq.ParquetWriter(path, schema) as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(list(rows), schema=schema))
