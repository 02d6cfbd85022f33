"""Terminal output of commands: errors in one line, tables at full width, a progress bar."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape

from xai_align._tools.files.legible import legible
from xai_align._tools.files.plain_json import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.progress import Progress

    from xai_align.hookspecs import LoadedModel


@contextmanager
def report_errors() -> Iterator[None]:
    """Print user errors in one line and exit with status 2; internal errors keep their traceback."""
    from xai_align.plugins import PluginError

    try:
        yield
    except (ValueError, ImportError, PluginError, OSError) as error:
        print_error(Console(stderr=True), f"error: {_said(error)}")
        raise typer.Exit(2) from None


@contextmanager
def writable_output() -> Iterator[None]:
    """Print "?" for characters that the output's encoding lacks, and one line if the system cannot write it."""
    stream = sys.stdout if isinstance(sys.stdout, TextIOWrapper) else None
    strict = stream is not None and stream.errors == "strict"  # others were chosen by the user
    if stream and strict:
        stream.reconfigure(errors="replace")
    try:
        yield
    except OSError as error:
        with suppress(OSError):
            print_error(Console(stderr=True), f"error: {_said(error)}")
        raise SystemExit(2) from None
    finally:
        if stream and not _is_writable(stream):  # Python writes again at its end, and would print a second error
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream and strict:
            stream.reconfigure(errors="strict")


def _is_writable(stream: TextIO) -> bool:
    """Return whether what was printed can be written."""
    try:
        stream.flush()
    except OSError:
        return False
    return True


def _said(error: Exception) -> str:
    """Return an error's message; of one of the system, its reason and the file, without the number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.strerror}: '{legible(str(error.filename))}'"
    return str(error)


def output() -> Console:
    """Return the console; a table that goes into a file or a pipe is not cut to eighty columns."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def as_text(text: str) -> str:
    """Return a text for rich that is shown as it is: no markup, and none of the terminal's escape sequences."""
    return escape(printable(text))


def print_lines(console: Console, lines: Iterable[str], *, style: str | None = None) -> None:
    """Print lines as they are: without markup, highlighting or line breaks."""
    for line in lines:
        console.print(as_text(line), style=style, highlight=False, soft_wrap=True)


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Print notes, dimmed, one per line."""
    print_lines(console, (f"note: {note}" for note in notes), style="dim")


def print_warnings(loaded: LoadedModel) -> None:
    """Print what has to be known of a model before its explanations are read, on stderr: random weights first."""
    from xai_align._tools.random_weights import RANDOM

    random = RANDOM if loaded.random_weights and not any(RANDOM in note for note in loaded.notes) else None
    notes = ([random] if random else []) + list(loaded.notes)
    print_lines(Console(stderr=True), (f"warning: {note}" for note in notes), style="yellow")


def print_remarks(remarks: Iterable[str]) -> None:
    """Print what has to be known before a long work begins, one per line, on stderr."""
    print_lines(Console(stderr=True), (f"warning: {remark}" for remark in remarks), style="yellow")


@contextmanager
def warnings_in_lines(*categories: type[Warning]) -> Iterator[set[str]]:
    """Print Python warnings of these categories as lines on stderr, at once; yield the lines, which grow in the block.

    Without it they name a line of this program, and what a result's notes say as well is printed twice.
    """
    told: set[str] = set()
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, categories):
                usual(message, category, *where, **more)
                return
            lines = str(message).splitlines()
            told.update(lines)
            print_remarks(lines)

        warnings.showwarning = show
        yield told


def print_error(console: Console, error: str) -> None:
    """Print one line in red."""
    print_lines(console, [error], style="red")


def progress_bar() -> Progress:
    """Return a progress bar on stderr, removed when done; nothing is shown if stderr is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
