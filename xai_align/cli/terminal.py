"""Terminal output of commands: errors in one line, tables at full width, a progress bar."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Print user errors in one line and exit with status 2; internal errors keep their traceback."""
    from xai_align.plugins import PluginError

    try:
        yield
    except (ValueError, ImportError, PluginError, OSError) as error:
        Console(stderr=True).print(f"error: {escape(str(error))}", style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def output() -> Console:
    """Return the console; a table that goes into a file or a pipe is not cut to eighty columns."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def progress_bar() -> Progress:
    """Return a progress bar on stderr, removed when done; nothing is shown if stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
