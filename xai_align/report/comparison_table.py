"""Table of a comparison: one row per method, one column per metric, every cell formatted as text."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xai_align.comparison.best_methods import best_methods
from xai_align.comparison.verdicts import ERROR_RATE, JUDGED_FROM
from xai_align.report.method_style import MethodStyle, method_styles
from xai_align.report.record_text import tiny

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xai_align.comparison.result import Comparison, Summary

#: Placeholder for a missing number.
NOTHING = "–"
SECONDS = "seconds per image"


@dataclass(frozen=True, kw_only=True)
class Column:
    """Column of a metric, or of the seconds.

    Attributes:
        higher_is_better: None where the metric has no better direction, or the comparison does not define it.
        summary: the metric in one line.
        digits: digits after the decimal point, except for numbers that would have fewer than two digits left; None:
            powers of ten.
    """

    name: str
    higher_is_better: bool | None
    summary: str
    digits: int | None

    @property
    def arrow(self) -> str:
        """``↑`` if higher is better, ``↓`` if lower is."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def direction(self) -> str:
        """Text for the arrow."""
        return {True: "higher is better", False: "lower is better", None: ""}[self.higher_is_better]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Cell of one method and one metric.

    Attributes:
        value: the mean, not rounded, to sort by; None where there is none.
        mean, interval, difference: formatted numbers; empty or :data:`NOTHING` where there is none.
        mark: ``"better"`` or ``"worse"`` than the reference, as in the summary's verdict.
        hint: the cell as a sentence.
        missing: text with the number of images without a value; empty if all have one.
        best: whether it is a best mean of the column, of those over the same images
            (:func:`~xai_align.comparison.best_methods.best_methods`).
        comparable: whether its mean is over all of these images.
    """

    value: float | None
    mean: str
    interval: str = ""
    difference: str = ""
    mark: str = ""
    hint: str = ""
    missing: str = ""
    best: bool = False
    comparable: bool = True


@dataclass(frozen=True, kw_only=True)
class Row:
    """Row of a method's cells."""

    style: MethodStyle
    cells: Sequence[Cell]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Table for one kind of question; the last column is the seconds."""

    question: str
    columns: Sequence[Column]
    rows: Sequence[Row]

    @property
    def leader(self) -> str:
        """Method, other than a control, that is best in most metrics; the first of several; empty if none is."""
        wins = Counter(
            {
                row.style.method: sum(cell.best for cell in row.cells[:-1])
                for row in self.rows
                if row.style.role != "control"
            }
        )
        method, most = max(wins.items(), key=lambda win: win[1], default=("", 0))
        return method if most else ""


def comparison_table(comparison: Comparison, question: str) -> Table:
    """Return the table of one kind of question, methods and metrics in the order of the comparison."""
    found = {(one.method, one.metric): one for one in comparison.summaries if one.question == question}
    columns = [_metric_column(comparison, metric, found.values()) for metric in comparison.metrics]
    best = [best_methods(comparison, question, metric) for metric in comparison.metrics]
    time = Column(
        name=SECONDS,
        higher_is_better=False,
        summary="time of the method for one image, without the metrics",
        digits=_digits(comparison.seconds.values()),
    )
    # a control computes nothing, so its speed is not compared
    timed = {method: took for method, took in comparison.seconds.items() if method not in comparison.controls}
    fastest = min(_finite(timed.values()), default=None)

    def row(style: MethodStyle) -> Row:
        cells = [
            _cell(found.get((style.method, column.name)), column, top, comparison.reference)
            for column, top in zip(columns, best, strict=True)
        ]
        return Row(style=style, cells=[*cells, _seconds_cell(comparison.seconds.get(style.method), time, fastest)])

    rows = [row(style) for style in method_styles(comparison.methods, comparison.reference, comparison.controls)]
    return Table(question=question, columns=[*columns, time], rows=rows)


def verdict_notes(comparison: Comparison, question: str | None = None) -> list[str]:
    """Return the meaning of "better" and "worse" in a table, or why there are none; for one question or all."""
    compared = [
        one
        for one in comparison.summaries
        if one.method != comparison.reference and one.pairs and question in (None, one.question)
        if comparison.higher_is_better.get(one.metric) is not None  # others get no verdict
    ]
    if not compared:
        return []
    notes = []
    tables = Counter(one.question for one in compared if one.pairs >= JUDGED_FROM)
    if tables:
        count = max(tables.values())
        several = "this comparison" if count == 1 else f"all {count} comparisons of {_a_table(tables)} together"
        notes.append(
            f"better, worse: than {comparison.reference} on the same images. Holm's correction: if no method differed "
            f"from it, any such word would appear with a probability of about {ERROR_RATE:.0%} for {several}."
        )
    few = [one for one in compared if one.pairs < JUDGED_FROM]
    if few:
        notes.append(
            f"{'Some differences' if tables else 'Differences'} are not judged better or worse than "
            f"{comparison.reference}: that takes {JUDGED_FROM} images on which both methods have a value, and "
            f"{'for some' if tables else 'here'} there are {max(one.pairs for one in few)} at most."
        )
    return notes


def _a_table(tables: Counter[str]) -> str:
    return "the table" if len(tables) == 1 else "a table"


def figure(value: float, digits: int | None) -> str:
    """Format a number with ``digits`` decimals and a typographic minus; :data:`NOTHING` if it is not finite."""
    if not math.isfinite(value):
        return NOTHING
    return (tiny(value) if digits is None else f"{value:.{digits}f}").replace("-", "−")


def _metric_column(comparison: Comparison, metric: str, summaries: Iterable[Summary]) -> Column:
    return Column(
        name=metric,
        higher_is_better=comparison.higher_is_better.get(metric),
        summary=comparison.summaries_of_metrics.get(metric, ""),
        digits=_digits(one.mean for one in summaries if one.metric == metric),
    )


def _digits(values: Iterable[float]) -> int | None:
    """Return the decimals that show the column's largest number with three digits, four if it is 1 or more."""
    largest = max((abs(value) for value in _finite(values)), default=0.0)
    if largest == 0:
        return 3
    power = math.floor(math.log10(largest))
    if power < -5:
        return None
    return max(0, 3 - power) if power >= 0 else 2 - power


def _enough(digits: int | None, value: float) -> int | None:
    """Return the column's decimals, or the number's own where those leave fewer than two of its digits."""
    if digits is None or value == 0:
        return digits
    own = _digits([value])
    return own if own is None or own > digits + 1 else digits


def _cell(one: Summary | None, column: Column, best: set[str], reference: str) -> Cell:
    if one is None or not math.isfinite(one.mean):
        asked = 0 if one is None else one.n + one.missing
        hint = "no value" + ("" if not asked else " for the image" if asked == 1 else f" for any of {asked} images")
        return Cell(value=None, mean=NOTHING, hint=hint)
    digits = _enough(column.digits, one.mean)
    mean, mark = figure(one.mean, digits), one.verdict if column.higher_is_better is not None else ""
    interval, difference = _interval(one.low, one.high, digits), ""
    hints = [f"{one.method}, {column.name}: {mean}", f"95 % interval {interval}" if interval else "", f"n = {one.n}"]
    if not one.complete:
        hints.append("not compared for the best mean, since other methods have values for more images")
    if one.n > 1 and not interval:
        interval = f"[{NOTHING}]"
    if math.isfinite(one.difference) and one.method != reference:
        places = _enough(column.digits, one.difference)
        between = _interval(one.difference_low, one.difference_high, places)
        difference = f"{_signed(one.difference, places)} {between}".strip()
        verdict = mark or (_unmarked(one) if between and column.higher_is_better is not None else "")
        hints.append(f"difference to {reference} {difference}{f': {verdict}' if verdict else ''}")
    return Cell(
        value=one.mean,
        mean=mean,
        interval=interval,
        difference=difference,
        mark=mark,
        hint="; ".join(hint for hint in hints if hint),
        missing=f"{one.missing} missing" if one.missing else "",
        best=one.method in best,
        comparable=one.complete,
    )


def _unmarked(one: Summary) -> str:
    """Return why a difference has no mark."""
    return "no clear difference" if one.pairs >= JUDGED_FROM else f"not judged with fewer than {JUDGED_FROM} images"


def _seconds_cell(took: float | None, column: Column, fastest: float | None) -> Cell:
    if took is None or not math.isfinite(took):
        return Cell(value=None, mean=NOTHING, hint="not timed")
    return Cell(value=took, mean=figure(took, _enough(column.digits, took)), best=took == fastest)


def _interval(low: float, high: float, digits: int | None) -> str:
    return f"[{figure(low, digits)}, {figure(high, digits)}]" if math.isfinite(low) and math.isfinite(high) else ""


def _signed(value: float, digits: int | None) -> str:
    return ("+" if value > 0 else "") + figure(value, digits)


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
