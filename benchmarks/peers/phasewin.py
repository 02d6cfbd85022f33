"""PhaseWin: greedy region search in which several regions are taken at once, from a window of promising ones.

arXiv 2606.18008; the definition is that of the authors' code (Qihuai27/phasewin-va), without its two random or rarely
used parts, the deferring of candidates by chance and the end of a phase by second differences. A phase:

1. the region of the largest gain is taken, and all gains are measured again; the largest is now ``G``
2. regions below ``0.3 G`` are put aside until the end
3. of those at ``0.8 G`` and above, 16 form a window; while its largest gain ``g`` is at least ``0.8 G``, all
   regions of the window at ``max(0.8 G, 0.9 g)`` and above are taken, and others move up

Gains are those of :mod:`benchmarks.peers.shown_regions`. Where the passes end, the last known gains order the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from benchmarks.peers.regions import slico
from benchmarks.peers.shown_regions import PassesSpent, Regions, ShownRegions, as_map

REGIONS = 49
ASIDE, PROMISING, TAKEN, WINDOW = 0.3, 0.8, 0.9, 16
#: Greedy search over all regions: the most that a search can take.
PUBLISHED = REGIONS * (REGIONS + 1)

Values = Callable[[Sequence[Regions]], Sequence[float]]


def phasewin(model: nn.Module, x: Tensor, label: int, *, passes: int = PUBLISHED) -> Tensor:
    """Return scores by the order of the regions, ``[H, W]``, for one image ``[1, C, H, W]``.

    Raises:
        ValueError: the passes are not enough for the first gains of one region.
    """
    if passes < 2:
        raise ValueError(f"passes is {passes}; the gain of one region takes 2")
    regions = slico(x, min(REGIONS, max(1, (passes - 2) // 2)))  # enough for the first gains
    search = ShownRegions(model, x, label, regions, passes)
    return as_map(in_phases(search.values, len(search.everything)), regions)


def in_phases(values: Values, count: int) -> list[int]:
    """Return the order of ``count`` regions, most important first; ``values`` returns ``F`` of some sets."""
    search = _Phases(values, count)
    try:
        search.run()
    except PassesSpent:
        search.finish(search.rest)
        search.finish(search.aside)
    return search.taken


class _Phases:
    def __init__(self, values: Values, count: int) -> None:
        self.values = values
        self.rest, self.aside, self.taken = list(range(count)), list[int](), list[int]()
        self.last = dict.fromkeys(self.rest, 0.0)

    def run(self) -> None:
        while self.rest:
            gains = self.gains(self.rest)
            best = max(self.rest, key=gains.__getitem__)
            if gains[best] <= 0:
                break
            self.take([best])
            if self.rest:
                self.window()
        for some in (self.rest, self.aside):  # regions that no phase took
            if some:
                self.gains(some)
                self.finish(some)

    def window(self) -> None:
        gains = self.gains(self.rest)
        largest = max(gains.values())
        if largest <= 0:
            return
        for a in [a for a in self.rest if gains[a] < ASIDE * largest]:
            self.rest.remove(a)
            self.aside.append(a)
        queue = sorted((a for a in self.rest if gains[a] >= PROMISING * largest), key=gains.__getitem__, reverse=True)
        while queue:
            here = self.gains(queue[:WINDOW])
            cut = max(PROMISING * largest, TAKEN * max(here.values()))
            found = [a for a in here if here[a] >= cut]
            if not found:
                return
            self.take(sorted(found, key=here.__getitem__, reverse=True))
            queue = [a for a in queue if a not in found]

    def gains(self, some: Sequence[int]) -> dict[int, float]:
        """Return ``F(S + a) - F(S)`` of each region."""
        before, *after = self.values([frozenset(self.taken), *(frozenset((*self.taken, a)) for a in some)])
        found = {a: value - before for a, value in zip(some, after, strict=True)}
        self.last |= found
        return found

    def take(self, some: Sequence[int]) -> None:
        self.taken += some
        self.rest = [a for a in self.rest if a not in some]

    def finish(self, some: Sequence[int]) -> None:
        """Take regions by their last known gains."""
        self.taken += sorted(some, key=self.last.__getitem__, reverse=True)
