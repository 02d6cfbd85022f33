"""Share of a training's time that may be spent on explaining."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from torch.overrides import TorchFunctionMode

from xai_align._tools.checks import check_number


class OutOfTime(BaseException):
    """End of a block that takes longer than it may; not an ``Exception``, so that it is not handled as a failure."""


class TimeBudget:
    """Share of the time since :meth:`start` that may be spent in :meth:`spending`.

    The time for a number of pictures is predicted from earlier ones. The first time nothing is known, so one picture is
    tried, and stopped as soon as it takes more than the available time (:meth:`within`). A failed trial is repeated
    when twice as much time is available.

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
        self._seconds: dict[int, float] = {}
        self._tried = 0.0

    def start(self) -> None:
        """Begin to count, from nothing."""
        self._began, self.spent, self.last = self._clock(), 0.0, 0.0
        self._seconds, self._tried = {}, 0.0

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit: not with a share of 1, nor before the start."""
        return self.share < 1 and self._began is not None

    @property
    def elapsed(self) -> float:
        """Seconds since the start; 0 before it."""
        return 0.0 if self._began is None else self._clock() - self._began

    @property
    def left(self) -> float:
        """Seconds that may be spent now."""
        return self.share * self.elapsed - self.spent if self.is_limited else math.inf

    @property
    def may_try(self) -> bool:
        """Whether there is time for a trial: twice what the last one had."""
        return self.left > 2 * self._tried

    @property
    def is_known(self) -> bool:
        """Whether the time for pictures is known."""
        return bool(self._seconds)

    def seconds_of(self, pictures: int) -> float:
        """Return the longest time that this many pictures may take, from earlier ones; infinite if nothing is known.

        More pictures take longer, and twice as many at most twice as long.
        """
        enough = [seconds for count, seconds in self._seconds.items() if count >= pictures]
        return min(enough or (seconds * pictures / count for count, seconds in self._seconds.items()), default=math.inf)

    def affordable(self, pictures: int) -> int:
        """Return the largest number of pictures, up to the given one, that there is time for."""
        return next((count for count in range(pictures, 0, -1) if self.seconds_of(count) <= self.left), 0)

    @contextmanager
    def spending(self, pictures: int = 0) -> Iterator[None]:
        """Count the seconds of the block as spent, and as the time of these pictures if it ends without an error.

        Without an earlier start, time begins with it.
        """
        if self._began is None:
            self.start()
        before = self._clock()
        try:
            yield
            if pictures:
                self._seconds[pictures] = self._clock() - before
        finally:
            self.last = self._clock() - before
            self.spent += self.last

    @contextmanager
    def within(self) -> Iterator[None]:
        """End the block with the first operation of PyTorch that begins after the time that is left now.

        Raises:
            OutOfTime: so it ended.
        """
        if not self.is_limited:
            yield
            return
        self._tried = self.left
        with _Deadline(self._clock, self._clock() + self.left) as deadline:
            try:
                yield
            except Exception as error:
                if deadline.passed:  # something on the way took it for a failure of its own
                    raise OutOfTime from error
                raise


class _Deadline(TorchFunctionMode):
    def __init__(self, clock: Callable[[], float], end: float) -> None:
        super().__init__()
        self._clock, self._end, self.passed = clock, end, False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, or end."""
        if self._clock() > self._end:
            self.passed = True
            raise OutOfTime
        return func(*args, **(kwargs or {}))
