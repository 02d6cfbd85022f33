"""The table of a comparison in sentences, one for each metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xai_align.comparison.verdicts import JUDGED_FROM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xai_align.report.comparison_table import Column, Row, Table


def metric_sentences(table: Table, reference: str) -> list[str]:
    """Return one sentence for each metric that has values: the best mean, and which methods differ from the reference.

    Example::

        metric_sentences(comparison_table(comparison, "why"), "pinet")
        # ["deletion (lower is better): lime has the best mean, 0.100 [0.060, 0.140]. Compared with pinet (0.200
        #  [0.160, 0.240]), lime is better; random is worse."]
    """
    sentences = []
    for number, column in enumerate(table.columns[:-1]):  # the last one is the time
        rows = [row for row in table.rows if row.cells[number].value is not None]
        if rows and column.higher_is_better is not None:
            sentences.append(_sentence(column, number, rows, reference))
    return sentences


def _sentence(column: Column, number: int, rows: Sequence[Row], reference: str) -> str:
    def mean(row: Row) -> str:
        cell = row.cells[number]
        return f"{cell.mean} {cell.interval}".strip()

    best = [row for row in rows if row.cells[number].best]
    text = f"{column.name} ({column.direction}): {_on_best([row.style.method for row in best])}"
    text += f", {mean(best[0])}." if best else "."
    partial = [row.style.method for row in rows if not row.cells[number].comparable]
    if best and partial:
        text += f" {_listed(partial)} {'has' if len(partial) == 1 else 'have'} values for fewer images and "
        text += f"{'is' if len(partial) == 1 else 'are'} left out of this."
    own = next((row for row in rows if row.style.method == reference), None)
    others = [row for row in rows if row.style.method != reference]
    if own is None or not others:
        return text
    groups = {
        word: [row.style.method for row in others if row.cells[number].mark == word] for word in ("better", "worse", "")
    }
    clauses = [
        f"{_listed(names)} {'is' if len(names) == 1 else 'are'} {word or 'not clearly different'}"
        for word, names in groups.items()
        if names
    ]
    if not groups["better"] and not groups["worse"]:
        clauses = [f"no method is clearly better or worse (judged from {JUDGED_FROM} images on)"]
    with_it = "it" if best == [own] else f"{reference} ({mean(own)})"
    return f"{text} Compared with {with_it}, {'; '.join(clauses)}."


def _on_best(names: Sequence[str]) -> str:
    if not names:
        return "no method has a value for every image, so none is said to have the best mean"
    return f"{_listed(names)} {'has' if len(names) == 1 else 'share'} the best mean"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
