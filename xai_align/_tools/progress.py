"""Progress bars of the library; the command line draws its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ProgressBar:
    """A progress bar, or nothing at all if ``bar`` is None."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar

    def advance(self, steps: float = 1) -> None:
        """Move on by some steps."""
        if self._bar is not None:
            self._bar.update(steps)

    def move_to(self, done: float, total: float | None = None) -> None:
        """Move to a number of steps, perhaps of another total."""
        if self._bar is not None:
            self._bar.total = self._bar.total if total is None else total
            self._bar.update(done - self._bar.n)

    def describe(self, text: str) -> None:
        """Replace the words before the bar."""
        if self._bar is not None:
            self._bar.set_description(text)


@contextmanager
def progress_bar(
    description: str, total: float | None, *, shown: bool, done: float = 0, timed: str = "it"
) -> Iterator[ProgressBar]:
    """Yield a bar on the error stream, or in the notebook, that is removed at the end.

    Args:
        description: the words before the bar.
        total: the number of steps; None: not known yet.
        shown: whether there is a bar at all.
        done: steps that were done before.
        timed: the name of a step, as in "3.1 epoch/s".
    """
    if not shown:
        yield ProgressBar()
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=description, leave=False, initial=done, unit=timed) as bar:
        yield ProgressBar(bar)
