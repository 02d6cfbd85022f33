"""The table of records on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from xai_align.report.words import COLUMNS, NUMBER_COLUMNS, table_row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xai_align.report.record import Record


def table_of(records: Iterable[Record], *, title: str = "") -> Table:
    """One row a record; numbers in logits, images and questions named once."""
    table = Table(title=title or None, caption="numbers in logits", show_lines=False)
    for name in COLUMNS:
        if name in NUMBER_COLUMNS:
            table.add_column(name, justify="right", no_wrap=name != "completeness error")
        else:
            table.add_column(name, overflow="fold")
    before: tuple[str, ...] = ("", "")
    for record in records:
        row = table_row(record)
        same_image, same_question = row[0] == before[0], row[:2] == before
        if before[0] and not same_question:
            table.add_section()
        shown = ("" if same_image else row[0], "" if same_question else row[1], *row[2:])
        table.add_row(*shown)
        before = row[:2]
    return table
