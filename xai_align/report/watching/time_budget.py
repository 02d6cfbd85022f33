"""Share of a training's time that may be spent on explaining."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from xai_align._tools.checks import check_number


class TimeBudget:
    """Share of the time since :meth:`start` that may be spent in :meth:`spending`.

    Args:
        share: in (0, 1]; 1: without limit.
        clock: returns seconds.

    Attributes:
        spent: seconds spent so far.
        last: seconds of the last time; 0 before the first.

    Raises:
        ValueError: the share is not in (0, 1].
    """

    def __init__(self, share: float, clock: Callable[[], float] = perf_counter) -> None:
        self.share, self._clock = check_number("share", share, above=0, most=1), clock
        self.spent = self.last = 0.0
        self._began: float | None = None

    def start(self) -> None:
        """Begin to count, from nothing."""
        self._began, self.spent, self.last = self._clock(), 0.0, 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the start; 0 before it."""
        return 0.0 if self._began is None else self._clock() - self._began

    @property
    def allows(self) -> bool:
        """Whether as many seconds as the last time may be spent now. The first time is always allowed."""
        return self.share == 1 or self.spent + self.last <= self.share * self.elapsed

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the seconds of the block as spent; without a start before, time begins with it."""
        if self._began is None:
            self.start()
        before = self._clock()
        try:
            yield
        finally:
            self.last = self._clock() - before
            self.spent += self.last
