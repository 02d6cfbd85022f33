"""Experimental: masks whose area shrinks during training.

    (mean M - tau)^2,  tau from 1.0 down to 0.35, linearly

A technique of AIM (Alshami et al., ICCV 2025, arXiv 2508.11502), which masks a network's own features, here applied to
ALIGN's masker, where its effect may differ. The weight 6 and the last areas .35 and .25 are published; taking
the area image by image is our reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from xai_align.align import MaskerPass, MaskerTerm, check_number


@dataclass(kw_only=True)
class AnnealedArea(MaskerTerm):
    """Experimental: ``(mean M - tau)^2``, with an area tau that shrinks as training progresses.

    Attributes:
        first: tau at the beginning.
        last: tau at the end.
        until: the share of the fit after which tau has its last value.

    Raises:
        ValueError: an option is out of range.
    """

    name: ClassVar[str] = "annealed_area"

    weight: float = 6.0
    first: float = 1.0
    last: float = 0.35
    until: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("the first area", self.first, most=1.0)
        check_number("the last area", self.last, most=1.0)
        check_number("until", self.until, least=1e-6, most=1.0)

    def tau(self, progress: float) -> float:
        """Return the target area after this share of the fit."""
        done = min(max(progress / self.until, 0.0), 1.0)
        return self.first + done * (self.last - self.first)

    def values(self, forward: MaskerPass) -> Tensor:
        """Return the value of each image, ``[N]``."""
        # the area is an L1 norm, as in the sparsity of ``align``: it has no gradient at pixels that are exactly 0
        area = forward.masks.abs().mean((1, 2, 3))
        return (area - self.tau(forward.progress)).square()
