"""Terminal output of a comparison: one table for each kind of question."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

from xai_align.cli.terminal import as_text
from xai_align.comparison.best_methods import RULE, best_methods, left_out_notes
from xai_align.comparison.intervals import DESCRIPTION, EQUAL
from xai_align.report.comparison_table import verdict_notes
from xai_align.report.record_text import NO_VALUE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from xai_align.comparison.result import Comparison, Summary

_CELL = 27  # characters of a cell with its frame


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print means with intervals, the best of each metric in bold; in a narrow terminal, several tables."""
    longest = max(map(len, comparison.methods))
    at_once = max(1, (console.width - longest - 5) // _CELL)
    for kind in comparison.questions:
        for first in range(0, len(comparison.metrics), at_once):
            metrics = comparison.metrics[first : first + at_once]
            console.print(_table(comparison, kind, metrics, seconds=first + at_once >= len(comparison.metrics)))
    for text in footnotes(comparison):
        console.print(as_text(text), style="dim", highlight=False)


def footnotes(comparison: Comparison) -> list[str]:
    """Return the footnotes that explain the numbers."""
    notes = [
        f"mean [{DESCRIPTION}]; ↑: higher values are better, ↓: lower values are better; bold: best mean {RULE}.",
        *verdict_notes(comparison),
    ]
    gaps = [row for row in comparison.summaries if row.missing and row.n]
    if gaps:
        notes.append("n=…: the number of images with a value, where some have none.")
        notes.extend(left_out_notes(comparison))
    if any(row.n > 1 and not math.isfinite(row.low) for row in comparison.summaries):
        notes.append(f"[{NO_VALUE}]: {EQUAL}.")
    if any(row.n == 0 for row in comparison.summaries):
        notes.append(f"{NO_VALUE}: the metric does not apply, or failed on every image.")
    return notes


def _table(comparison: Comparison, kind: str, metrics: Sequence[str], *, seconds: bool) -> Table:
    table = Table(title=f"{kind}: {as_text(comparison.title)}")
    table.add_column("method", overflow="fold")
    for metric in metrics:
        arrow = {True: " ↑", False: " ↓", None: ""}[comparison.higher_is_better[metric]]
        table.add_column(as_text(metric) + arrow, justify="right")
    if seconds:
        table.add_column("s / image", justify="right")
    rows = {(row.method, row.metric): row for row in comparison.summaries if row.question == kind}
    best = {metric: best_methods(comparison, kind, metric) for metric in metrics}
    for method in comparison.methods:
        cells = [_cell(rows[method, metric], best=method in best[metric]) for metric in metrics]
        taken = comparison.seconds[method]
        table.add_row(as_text(method), *cells, *([f"{taken:.3g}" if math.isfinite(taken) else NO_VALUE] * seconds))
    return table


def _cell(row: Summary, *, best: bool) -> str:
    if not row.n:
        return NO_VALUE
    text = _number(row.mean)
    if math.isfinite(row.low):
        text += f" [{_number(row.low)}, {_number(row.high)}]"
    elif row.n > 1:
        text += f" [{NO_VALUE}]"
    if row.missing:
        text += f" n={row.n}"
    text = as_text(text)
    return (f"[bold]{text}[/bold]" if best else text) + (f" {row.verdict}" if row.verdict else "")


def _number(value: float) -> str:
    """Format with three decimals; four significant digits for large numbers, three for tiny ones."""
    size = abs(value)
    text = f"{value:.3g}" if 0 < size < 1e-3 or size >= 1e5 else f"{value:.4g}" if size >= 100 else f"{value:.3f}"
    return text.replace("-", "−")
