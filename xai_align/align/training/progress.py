"""How far a fit is, for who watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xai_align.training.training_log import Row

#: What is shown of the last row.
SHOWN = {"loss": "loss", "accuracy": "accuracy", "mask_mean": "mask", "distinction": "dist"}


@contextmanager
def progress_bar(epochs: int, shown: bool) -> Iterator[Callable[[float, Row | None], None]]:
    """Moves a bar to so many epochs (a fraction of one, too), with what the last row says, if a bar is wanted."""
    if not shown:
        yield lambda done, row: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("aligning", total=epochs)

        def advance(done: float, row: Row | None) -> None:
            known = [f"{word} {row[name]:.3g}" for name, word in SHOWN.items() if row and row.get(name) is not None]
            words = ", ".join([f"epoch {min(int(done) + 1, epochs)}/{epochs}", *known])
            bar.update(task, completed=done, description=words)

        yield advance
