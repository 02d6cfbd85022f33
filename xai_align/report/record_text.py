"""Formatting of numbers and records as text, shared by the terminal and the page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xai_align.data.colour_legend import NAMES, Key, colour_legend
from xai_align.report.number_format import number_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from xai_align.hookspecs import Values
    from xai_align.report.record import Record

#: The table's columns; numbers are in logits.
COLUMNS = (
    "image",
    "question",
    "method",
    "class",
    "answer",
    "sum of contributions",
    "bias",
    "completeness error",
    "seconds",
)

#: The columns with numbers.
NUMBER_COLUMNS = frozenset(COLUMNS[4:])

#: Unit of a colour bar: contributions sum to logits, per share of the picture's area.
LOGITS = "logits per 1 % of the picture"
#: Unit for slopes.
UNITLESS = "value per 1 % of the picture"
#: Label of the bar for scores, which has no numbers.
SCORES = "score; only its order counts"

NO_VALUE = "–"
_UNITS: dict[Values, str] = {"contributions": LOGITS, "slopes": UNITLESS, "scores": SCORES}


def tiny(value: float) -> str:
    """Format a small error in scientific notation: ``2.1e−07``."""
    return f"{value:.1e}".replace("-", "−")


def unit_of(record: Record) -> str:
    """Return the unit of the colour bar of a record's picture."""
    if record.values == "contributions" and not record.meaning.has_probabilities:
        return LOGITS.replace("logits", record.meaning.answer_unit)
    return _UNITS[record.values]


def unit_text(records: Sequence[Record]) -> str:
    """Return the sentence on the unit of all numbers: ``"numbers in logits"``."""
    return f"numbers in {' or '.join(dict.fromkeys(record.meaning.answer_unit for record in records))}"


def totals(record: Record) -> str:
    """Return the sums of positive and negative values, or a text for maps whose sums have no meaning."""
    if record.values == "scores":
        return "a ranking of positions"
    if not record.signed:
        return "sizes without a sign"
    of_slopes = " brighter pixels" if record.values == "slopes" else ""
    number = number_format([record.positive, record.negative])
    return f"{number(record.positive)} for, {number(record.negative)} against{of_slopes}"


def seconds(value: float) -> str:
    """Format seconds with two digits."""
    return f"{value:.2f}"


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Return the cells of each record in the order of :data:`COLUMNS`, their numbers in one format.

    For a method without a decomposition, the last but one column is the answer
    minus the sum of its map: a gap, not a rounding error. Slopes and scores
    have no sum that could be compared with the answer.
    """
    number = number_format(value for record in records for value in _in_table(record))
    return [_table_row(record, number) for record in records]


def _in_table(record: Record) -> Iterator[float]:
    """Yield the numbers of a record in the table that are in the answer's unit."""
    yield record.answer
    if record.values == "contributions":
        yield record.contributions
        yield record.gap if record.bias is None else record.bias


def _table_row(record: Record, number: Callable[[float], str]) -> tuple[str, ...]:
    bias, error = NO_VALUE, NO_VALUE
    adds_up = record.values == "contributions"
    total = number(record.contributions) if adds_up else NO_VALUE
    if record.bias is not None and record.completeness_error is not None:
        bias, error = number(record.bias), tiny(record.completeness_error)
    elif adds_up:
        error = f"gap {number(record.gap)}"
    return (
        record.image,
        record.question,
        record.label,
        record.class_name,
        number(record.answer),
        total,
        bias,
        error,
        seconds(record.seconds),
    )


def sum_text(record: Record) -> str:
    """Format the answer as a sum: ``9.384 = 9.120 (picture) + 0.264 (bias)``; or the gap of a map."""
    number = number_format([record.answer])
    if record.values == "slopes":
        return f"{number(record.answer)} is the answer; the map holds slopes, which don't add up to it"
    if record.values == "scores":
        return f"{number(record.answer)} is the answer; the map ranks positions, and its sum has no meaning"
    if not math.isfinite(record.contributions):
        return f"{number(record.answer)} is the answer; the map's values have no finite sum"
    if record.bias is None:
        number = number_format([record.answer, record.contributions, record.gap])
        return (
            f"{number(record.answer)} is the answer, {number(record.contributions)} the sum of the map: "
            f"{number(record.gap)} is not explained by the map: the network's constants, such as biases, and the "
            "method's own error"
        )
    on_picture = record.contributions - (record.prefix or 0.0)
    around = record.around or 0.0
    number = number_format([record.answer, on_picture, record.prefix or 0.0, around, record.bias])
    terms = [f"{number(on_picture)} (picture)"]
    if record.prefix:
        terms.append(f"{number(record.prefix)} (tokens without a position in the picture)")
    if around:
        terms.append(f"{number(around)} (evidence that bypasses the layer)")
    terms.append(f"{number(record.bias)} (bias)")
    return f"{number(record.answer)} = {' + '.join(terms).replace('+ −', '− ')}"


def exactness(record: Record) -> str:
    """Return the exactness and meaning of the sum for a readout; nothing for other methods."""
    if record.completeness_error is None:
        return ""
    meaning = {
        "local": "local: removing a position lowers the answer by its contribution",
        "frozen": "gates held at this image: the sum is exact, but removing positions also changes the gates",
    }
    cancels = f"terms for and against are {record.amplification:.3g} times the answer in size"
    clauses = (f"sum off by {tiny(record.completeness_error)}", cancels, meaning.get(record.kind or "", ""))
    return "; ".join((*clauses, *record.remarks))


def remarks(records: Sequence[Record]) -> list[str]:
    """Return the remarks of these records' readouts, each once."""
    return list(dict.fromkeys(f"{record.label}: {remark}." for record in records for remark in record.remarks))


def footnotes(records: Sequence[Record]) -> list[str]:
    """Return notes on the sums of these records' maps, and the notes of their methods."""
    exact = _methods(record for record in records if record.is_decomposition)
    gaps = [record for record in records if record.values == "contributions" and not record.is_decomposition]
    rankings = _methods(record for record in records if record.values == "scores")
    notes = []
    if exact:
        notes.append(
            f"{_listed(exact)} decompose{'s' * (len(exact) == 1)} the answer: "
            "sum of contributions + bias = answer; "
            "the completeness error is the difference of the two sides, from a second computation."
        )
    if gaps:
        notes.append(
            "Methods marked – do not decompose the answer; the gap is the answer minus the sum of their map: the "
            "network's constants, which a decomposition states as its bias, and the method's own error."
        )
    if rankings:
        notes.append(
            f"{_listed(rankings)} only rank{'s' * (len(rankings) == 1)} positions, the most relevant highest: "
            "the values are not contributions, and their sum has no meaning."
        )
    return [*notes, *dict.fromkeys(record.note for record in records if record.note)]


def _methods(records: Iterable[Record]) -> list[str]:
    return sorted({record.method for record in records})


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def colour_keys(records: Sequence[Record]) -> list[tuple[Sequence[Key], list[str]]]:
    """Return the colour legends of these records' maps, each with the methods that it is of."""
    found: dict[tuple[Key, ...], list[str]] = {}
    for record in records:
        methods = found.setdefault(_keys(record), [])
        if record.method not in methods:
            methods.append(record.method)
    return list(found.items())


def _keys(record: Record) -> tuple[Key, ...]:
    return colour_legend(record.values, signed=record.signed, regression=record.meaning.kind == "regression")


def legend_text(record: Record) -> str:
    """Return the meaning of the colours of a record's picture: ``red: supports the answer; blue: opposes it``."""
    keys = _keys(record)
    return "; ".join(f"{NAMES[key.colour]}: {key.text}" for key in keys)
