"""Maps and numbers on the samples of a FiftyOne dataset. Needs the package ``fiftyone``."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_align._tools.optional_package import optional_package

if TYPE_CHECKING:
    from xai_align.report.record import Record

#: Numbers of a record that become fields, where it has them.
NUMBERS = ("answer", "bias", "completeness_error", "relative_error", "amplification", "seconds")


def fill_samples(
    samples: Any,
    records: Mapping[str | Path, Record],
    *,
    metrics: Mapping[str | Path, Mapping[str, float]] | None = None,
    field: str | None = None,
) -> int:
    """Set a heatmap, the question and the numbers of each record on the sample of its file.

    The fields are ``FIELD`` (a ``fiftyone.Heatmap``), ``FIELD_question``, ``FIELD_answer``, ``FIELD_bias``, ... and
    ``FIELD_METRIC``. The range of a signed map is symmetric, so that 0 is the middle of the colours. Where
    there is no finite number, the field of an earlier call becomes None.

    Args:
        samples: a dataset or view of FiftyOne.
        records: of explanations (:func:`~xai_align.report.record.record_of`), by the path of the image's file.
        metrics: further numbers by name, by the path of the image's file.
        field: the name; None: that of each record's method.

    Returns:
        The number of samples that were filled.

    Raises:
        ModuleNotFoundError: FiftyOne is not installed.
        ValueError: there is no sample for some file, or no record for some metrics; then nothing is written.

    Example::

        import fiftyone as fo

        fill_samples(fo.load_dataset("pets"), {"cat.jpg": record_of(explanation, image="cat.jpg")})
    """
    with optional_package(None, "fiftyone", "heatmaps on samples"):
        import fiftyone
    of_file = {_absolute(path): record for path, record in records.items()}
    measured = {_absolute(path): dict(values) for path, values in (metrics or {}).items()}
    view = samples.select_by("filepath", list(of_file))
    _check_all_there(
        "no sample for the file(s)", set(of_file) - set(view.values("filepath")), "add them to the dataset"
    )
    _check_all_there("metrics without a record for the file(s)", set(measured) - set(of_file), "give their records")
    count = 0
    for sample in view.iter_samples(autosave=True):
        record = of_file[sample.filepath]
        name = field_name(field or record.method)
        values = record.map.numpy()
        sample[name] = fiftyone.Heatmap(map=values, range=range_of(values, signed=record.signed))
        sample[f"{name}_question"] = record.question
        numbers = {what: getattr(record, what) for what in NUMBERS} | measured.get(sample.filepath, {})
        for what, number in numbers.items():
            _set_number(sample, f"{name}_{field_name(what)}", number)
        count += 1
    return count


def field_name(text: str) -> str:
    """Return a name that FiftyOne accepts for a field: letters, digits and underscores, with a letter first."""
    plain = re.sub(r"\W+", "_", text.replace("+", "_plus"), flags=re.ASCII).strip("_")
    return plain if plain[:1].isalpha() else f"field_{plain}"


def range_of(values: Any, *, signed: bool) -> list[float]:
    """Return the range of a map's colours: symmetric about 0 for a signed map, else from its lowest to its highest."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if signed:
        high = max(abs(low), abs(high))
        low = -high
    return [low, high] if high > low else [low, low + 1.0]


def _set_number(sample: Any, field: str, number: float | None) -> None:
    """Set a field. FiftyOne finds the type of a new one from its value, so None is only set on existing fields."""
    if number is not None and math.isfinite(number):
        sample[field] = float(number)
    elif sample.has_field(field):
        sample[field] = None


def _absolute(path: str | Path) -> str:
    """Return a path as FiftyOne stores it."""
    return os.path.abspath(os.path.expanduser(path))


def _check_all_there(what: str, missing: set[str], remedy: str) -> None:
    if missing:
        shown = ", ".join(f"'{path}'" for path in sorted(missing)[:3]) + (" …" if len(missing) > 3 else "")
        raise ValueError(f"{what} {shown}; {remedy}")
