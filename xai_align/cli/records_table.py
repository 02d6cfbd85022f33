"""Terminal table of records: a single one or, in a narrow terminal, one for each question."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.table import Table

from xai_align.cli.terminal import as_text, print_lines
from xai_align.report.record_text import COLUMNS, NUMBER_COLUMNS, footnotes, remarks, table_rows, unit_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from xai_align.report.record import Record

_ROOM = 130  # smallest terminal width for the single table


def print_records(console: Console, records: Sequence[Record], files: Sequence[str]) -> None:
    """Print the records, notes on them, and where the files are."""
    print_table(console, records)
    for note in [*footnotes(records), *remarks(records)]:
        console.print(as_text(note), style="dim", highlight=False)
    print_lines(console, ["", *files])


def print_words(console: Console, records: Sequence[Record], words: Sequence[str]) -> None:
    """Print the sentences on each record's map, which were written while there was the map."""
    for record, text in zip(records, words, strict=True):
        print_lines(console, ["", f"{record.image}, {record.label}:", f"{record.question} {text}"])


def print_table(console: Console, records: Sequence[Record]) -> None:
    """Print the records in the form that fits the terminal; numbers are in logits."""
    tables = [wide_table(records)] if console.width >= _ROOM else narrow_tables(records)
    for table in tables:
        console.print(table)
    console.print(as_text(unit_text(records)), style="dim", highlight=False)


def wide_table(records: Sequence[Record]) -> Table:
    """Return one table with a row per record; each image and question is named once."""
    table = Table()
    _add_columns(table, COLUMNS)
    for question, several in groupby(table_rows(records), key=lambda row: row[:2]):
        for number, row in enumerate(several):
            table.add_row(*map(as_text, (*(question if number == 0 else ("", "")), *row[2:])))
        table.add_section()
    return table


def narrow_tables(records: Sequence[Record]) -> list[Table]:
    """Return one table for each image and question, with these as its title."""
    tables = []
    for (image, question), several in groupby(table_rows(records), key=lambda row: row[:2]):
        table = Table(title=as_text(f"{image}: {question}"), title_justify="left", padding=(0, 1, 0, 0), box=None)
        _add_columns(table, COLUMNS[2:])
        for row in several:
            table.add_row(*map(as_text, row[2:]))
        tables.append(table)
    return tables


def _add_columns(table: Table, names: Sequence[str]) -> None:
    for name in names:
        if name in NUMBER_COLUMNS:
            # column names wrap, numbers don't; the widest cell is a gap
            table.add_column(name, justify="right", min_width=max(map(len, name.split())))
        else:
            table.add_column(name, overflow="fold")
