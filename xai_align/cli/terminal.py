"""How commands speak: errors in a line, tables as wide as they need, a progress bar for who watches."""

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
    """What a person can mend is said in a line, with exit status 2; faults of ours keep their traceback."""
    from xai_align.plugins import PluginError

    try:
        yield
    except (ValueError, ImportError, PluginError, OSError) as error:
        Console(stderr=True).print(f"error: {escape(str(error))}", style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def output() -> Console:
    """The terminal; a table that goes into a file or a pipe is not cut to eighty columns."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def progress_bar() -> Progress:
    """A progress bar on the error stream, gone when done; nothing where no one watches."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
