"""Methods with the best mean of a metric: only means over the same images are compared."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xai_align.comparison.result import Comparison, Summary

#: What is compared for the best mean.
RULE = "among the methods with a value for every image on which any method has one"


def best_methods(comparison: Comparison, question: str, metric: str) -> set[str]:
    """Return the methods with the best mean; several if they are equal, none if no method has a value for every image.

    A mean over fewer images may be better because the hard ones are left out. So a method is only compared if it has
    a value for every image on which any method has one. Images on which no method has a value are ignored.

    Example::

        best_methods(comparison, "why", "deletion")  # {"lime"}
    """
    better = comparison.higher_is_better.get(metric)
    rows = [row for row in _rows(comparison, question, metric) if row.complete]
    if not rows or better is None:
        return set()
    best = (max if better else min)(row.mean for row in rows)
    return {row.method for row in rows if row.mean == best}


def left_out_notes(comparison: Comparison, question: str | None = None) -> list[str]:
    """Return a note on the methods that are not compared for the best mean; for one question, or None: for all."""
    found: dict[str, list[str]] = {}
    for row in comparison.summaries:
        if question in (None, row.question) and row.n and not row.complete:
            methods = found.setdefault(row.metric, [])
            if row.method not in methods:
                methods.append(row.method)
    if not found:
        return []
    told = "; ".join(f"{', '.join(methods)} in {metric}" for metric, methods in found.items())
    return [f"Best: {RULE}. Left out, since means over fewer images cannot be compared: {told}."]


def _rows(comparison: Comparison, question: str, metric: str) -> list[Summary]:
    return [
        row
        for row in comparison.summaries
        if (row.question, row.metric) == (question, metric) and math.isfinite(row.mean)
    ]
