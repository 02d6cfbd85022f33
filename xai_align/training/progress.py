"""Progress bar of a fit, with the values of the last row of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from xai_align._tools.progress import progress_bar
from xai_align.training.training_log import Row


@contextmanager
def fit_progress(
    title: str, epochs: int, columns: Mapping[str, str], *, shown: bool
) -> Iterator[Callable[[float, Row | None], None]]:
    """Yield a function that moves the bar to a number of epochs, possibly fractional, and shows a row of the log.

    Args:
        title: text before the bar until the first step.
        epochs: number of epochs of the fit.
        columns: columns of the log that are shown, with their short names.
        shown: whether to show a bar at all.
    """
    with progress_bar(title, epochs, shown=shown, timed="epoch") as bar:

        def show(done: float, row: Row | None) -> None:
            known = [f"{short} {row[name]:.3g}" for name, short in columns.items() if row and row.get(name) is not None]
            bar.describe(", ".join([f"epoch {min(int(done) + 1, epochs)}/{epochs}", *known]))
            bar.move_to(done)

        yield show
