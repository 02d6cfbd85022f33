"""Progress bar of a fit, with the values of the last row of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xai_align._tools.progress import progress_bar as bar_of
from xai_align.training.training_log import Row

#: Columns of the log shown before the bar, with their short names.
SHOWN = {"loss": "loss", "accuracy": "accuracy", "mask_mean": "mask", "distinction": "dist"}


@contextmanager
def progress_bar(epochs: int, shown: bool) -> Iterator[Callable[[float, Row | None], None]]:
    """Yield a function that moves the bar to a number of epochs, possibly fractional, and shows a row of the log."""
    with bar_of("aligning", epochs, shown=shown, timed="epoch") as bar:

        def advance(done: float, row: Row | None) -> None:
            known = [f"{word} {row[name]:.3g}" for name, word in SHOWN.items() if row and row.get(name) is not None]
            bar.describe(", ".join([f"epoch {min(int(done) + 1, epochs)}/{epochs}", *known]))
            bar.move_to(done)

        yield advance
