"""Progress bars of the library; the command line has its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ProgressBar:
    """Progress bar; does nothing if ``bar`` is None."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar

    def advance(self, steps: float = 1) -> None:
        """Advance by some steps."""
        if self._bar is not None:
            self._bar.update(steps)

    def move_to(self, done: float, total: float | None = None) -> None:
        """Set the number of steps done, which is shown with at most two decimals, and, if given, the total."""
        if self._bar is not None:
            self._bar.total = self._bar.total if total is None else total
            self._bar.n = round(done, 2)
            self._bar.update(0)

    def describe(self, text: str) -> None:
        """Replace the text before the bar."""
        if self._bar is not None:
            self._bar.set_description(text)


@contextmanager
def progress_bar(
    description: str, total: float | None, *, shown: bool, done: float = 0, timed: str = "it"
) -> Iterator[ProgressBar]:
    """Yield a bar on stderr, or in the notebook, that is removed at the end.

    Args:
        description: the text before the bar.
        total: the number of steps; None: not known yet.
        shown: whether to show a bar at all.
        done: number of steps that are done already.
        timed: the name of a step, as in "3.1 epoch/s".
    """
    if not shown:
        yield ProgressBar()
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=description, leave=False, initial=done, unit=timed) as bar:
        yield ProgressBar(bar)
