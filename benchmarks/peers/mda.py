"""MDA: the order of a transformer's patches by a greedy search for the insertion and the deletion curve.

Walker, Jha & Ewetz, Metric-Driven Attributions for Vision Transformers, ICLR 2025, and its released code. The search
goes through ``n`` patches with a short list: of those not yet taken, the ``2 floor(sqrt(n))`` (28 at most) that a prior
map ranks highest, or lowest.

1. insertion, from a blurred image: of the short list, the patch that gives the class the highest probability is
   taken, until 90 % of the rise from the blur to the image is reached
2. deletion, for the rest, read backwards: from a black image (zeros), of the patches that the prior ranks lowest, the
   one that gives the class the lowest probability is the least important left

The paper then gives each patch a magnitude, which keeps this order; here magnitudes fall by equal steps. The published
prior is an attribution by attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt

import torch
from torch import Tensor, nn

from benchmarks.peers.blurring import blurred
from benchmarks.peers.shown_regions import as_map

REACHED = 0.9
LONGEST = 28
BATCH = 16
#: Probability of the class where patches of one image lie on another.
Probabilities = Callable[[Sequence[Sequence[int]]], Sequence[float]]


def most_passes(side: int) -> int:
    """Return the largest number of images that a search over ``side x side`` patches runs."""
    patches, short = side**2, shortlist(side**2)
    return 2 + sum(min(short, left) for left in range(2, patches + 1))


def shortlist(patches: int) -> int:
    """Return the length of the short list."""
    return min(2 * isqrt(patches), LONGEST)


#: 16 x 16 patches of 14 pixels.
PUBLISHED = most_passes(16)


def mda(
    model: nn.Module, x: Tensor, label: int, *, prior: Tensor, passes: int = PUBLISHED, largest: int = 16
) -> Tensor:
    """Return scores by the order of the patches, ``[H, W]``, for one image ``[1, C, H, W]``.

    Args:
        model: returns logits ``[N, K]``.
        x: the image.
        label: the class.
        prior: a map ``[H, W]`` whose high values are searched first.
        passes: largest number of passes; with fewer, patches are larger.
        largest: largest number of patches along a side; that of the transformer.
    """
    side = side_for(passes, largest)
    rows, columns = (torch.arange(length) * side // length for length in x.shape[-2:])
    regions = side * rows[:, None] + columns
    means = torch.stack([prior[regions == k].mean() for k in range(side**2)])
    from_best = means.argsort(descending=True, stable=True).tolist()

    def onto(behind: Tensor) -> Probabilities:
        def probabilities(sets: Sequence[Sequence[int]]) -> list[float]:
            shown = torch.stack([torch.isin(regions, torch.tensor(one, dtype=torch.long)) for one in sets])[:, None]
            parts = [torch.where(some, x, behind) for some in shown.split(BATCH)]
            with torch.no_grad():
                return torch.cat([model(part).softmax(1)[:, label] for part in parts]).tolist()

        return probabilities

    return as_map(patch_order(onto(blurred(x, 5.0, 5)), onto(torch.zeros_like(x)), from_best), regions)


def side_for(passes: int, largest: int = 16) -> int:
    """Return the largest number of patches along a side for which this number of passes is enough.

    Raises:
        ValueError: it is not enough for 2 x 2.
    """
    enough = [side for side in range(2, largest + 1) if most_passes(side) <= passes]
    if not enough:
        raise ValueError(f"passes is {passes}; 2 x 2 patches take {most_passes(2)}")
    return max(enough)


def patch_order(on_blur: Probabilities, on_black: Probabilities, from_best: Sequence[int]) -> list[int]:
    """Return the order of the patches, most important first.

    Args:
        on_blur, on_black: probability of the class with these patches on the blurred image, and on black.
        from_best: the patches in the prior's order.
    """
    short = shortlist(len(from_best))
    low, high = on_blur([[], from_best])
    front, rest = list[int](), list(from_best)
    reached = low
    while rest and reached - low < REACHED * abs(high - low):
        taken, reached = _one_more(on_blur, front, rest[:short], max)
        front.append(taken)
        rest.remove(taken)
    back: list[int] = []
    while rest:
        taken, _ = _one_more(on_black, back, rest[::-1][:short], min)
        back.append(taken)
        rest.remove(taken)
    return front + back[::-1]


def _one_more(
    probabilities: Probabilities, taken: Sequence[int], candidates: Sequence[int], choose: Callable[..., float]
) -> tuple[int, float]:
    """Return the best candidate to add to those taken, and the class's probability; an only candidate is not run."""
    if len(candidates) == 1:
        return candidates[0], float("inf")
    found = list(probabilities([[*taken, one] for one in candidates]))
    best = choose(found)
    return candidates[found.index(best)], best
