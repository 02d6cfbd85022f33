"""Options of a second-look head that are rarely changed, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from xai_align.pinet.network.aggregator import Bias, Scale
from xai_align.pinet.network.initialisation import Start

#: Resolution of the maps: rows and columns (or one number for both), the input's, or the finest feature map's.
Size = int | tuple[int, int] | Literal["input"] | None


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Options of :class:`~xai_align.pinet.SecondLookHead`.

    Attributes:
        width: channels inside the decoder ``"fpn"``.
        decoder_options: further arguments of the named decoder.
        size: the size of the maps. None: the finest feature map's, for pixels the input's.
        scale: the scale of the sum, see :class:`~xai_align.pinet.network.aggregator.Aggregator`.
        bias: ``"learned"`` or ``"zero"``.
        image_channels: channels of the input, for ``z`` made of pixels.
        mean: the mean of the images' normalisation.
        std: the standard deviation of the images' normalisation.
        z_channels: number of learned features for ``z="features"``.
        start: the initial values of everything except the classifier; None: those of :class:`~xai_align.pinet.Start`.

    Example::

        head = SecondLookHead((8, 16, 32), 5, options=HeadOptions(width=16, size=28))
    """

    width: int = 32
    decoder_options: Mapping[str, Any] = field(default_factory=dict)
    size: Size = None
    scale: Scale = "square"
    bias: Bias = "learned"
    image_channels: int = 3
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    z_channels: int = 8
    start: Start | None = None
