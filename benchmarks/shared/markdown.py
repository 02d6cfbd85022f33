"""Rows and headings of Markdown tables."""

from __future__ import annotations


def row(*cells: object) -> str:
    """Return a row ``| a | b |``."""
    return "| " + " | ".join(map(str, cells)) + " |"


def heading(*columns: object) -> str:
    """Return the first row of a table and the line below it."""
    return row(*columns) + "\n" + "|---" * len(columns) + "|"
