"""LiMA: regions in the order of a greedy search from both ends.

Chen et al., Less is More: Efficient Black-box Attribution via Minimal
Interpretable Subset Selection, arXiv 2504.00470, and the code that it names
(bidirectional greedy search, ``n_p`` = 8 pending samples, SLICO superpixels of
about 30 pixels: 49 at 224 pixels). In every round the region whose addition to
the front makes ``F`` largest joins the front; of the ``n_p`` regions that made it
smallest, the one whose addition to the back makes ``F`` smallest joins the back.
The last ``n_p`` regions join the front one by one. ``F``: :mod:`benchmarks.peers.shown_regions`.

With fewer passes there are fewer regions: 9 for 100 passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from benchmarks.peers.regions import slico
from benchmarks.peers.shown_regions import Regions, ShownRegions, as_map

REGIONS = 49
PENDING = 8


def most_passes(count: int, pending: int = PENDING) -> int:
    """Return the largest number of images that the search over this number of regions runs: two for each set."""
    sets, rest, first = 0, count, True
    while rest:
        back = rest > pending
        # the sets of one region are known when the back is empty
        sets += rest + (pending if back and not first else 0)
        rest, first = rest - 1 - back, False
    return 2 * sets


PUBLISHED = most_passes(REGIONS)


def lima(model: nn.Module, x: Tensor, label: int, *, passes: int = PUBLISHED) -> Tensor:
    """Return scores by the order of the regions, ``[H, W]``, for one image ``[1, C, H, W]``."""
    regions = slico(x, regions_for(passes))
    search = ShownRegions(model, x, label, regions, passes)
    return as_map(bidirectional_greedy(search.values, len(search.everything)), regions)


def regions_for(passes: int) -> int:
    """Return the largest number of regions, up to the published one, for which this number of passes is enough.

    Raises:
        ValueError: it is not enough for one.
    """
    enough = [count for count in range(1, REGIONS + 1) if most_passes(count) <= passes]
    if not enough:
        raise ValueError(f"passes is {passes}; one region takes {most_passes(1)}")
    return max(enough)


def bidirectional_greedy(
    values: Callable[[Sequence[Regions]], Sequence[float]], count: int, pending: int = PENDING
) -> list[int]:
    """Return the order of ``count`` regions, most important first; ``values`` returns ``F`` of some sets."""
    front: list[int] = []
    back: list[int] = []
    rest = list(range(count))
    while rest:
        found = dict(zip(rest, values([frozenset((*front, a)) for a in rest]), strict=True))
        best = max(rest, key=found.__getitem__)
        if len(rest) > pending:
            lowest = [a for a in sorted(rest, key=found.__getitem__)[:pending] if a != best]
            there = dict(zip(lowest, values([frozenset((*back, a)) for a in lowest]), strict=True))
            worst = min(lowest, key=there.__getitem__)
            back.append(worst)
            rest.remove(worst)
        front.append(best)
        rest.remove(best)
    return front + back[::-1]
