"""Picture for a model's prepared input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_align.data.images import to_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from xai_align.hookspecs import LoadedModel


def picture_of(x: Tensor, loaded: LoadedModel) -> NDArray[np.float64]:
    """Return a prepared image ``[C, H, W]`` as a picture ``[H, W, 3]`` in [0, 1].

    The normalisation of the preprocessing is undone. Where it is not known, as for one that scales each image by
    itself, the values are stretched to [0, 1], all channels alike.
    """
    return scaled_picture(x, loaded.scale)


def scaled_picture(x: Tensor, scale: tuple[Sequence[float], Sequence[float]] | None) -> NDArray[np.float64]:
    """Return a prepared image ``[C, H, W]`` as a picture ``[H, W, 3]`` in [0, 1].

    Args:
        x: the image.
        scale: the mean and the standard deviation of the normalisation, which is undone; None, or those of another
            number of channels: the values are stretched to [0, 1], all channels alike, unless they lie there.
    """
    if scale is not None and all(len(values) in (1, len(x)) for values in scale):
        return to_picture(x, *scale)
    values: Any = x.detach().double()
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return to_picture((values - low) / ((high - low) or 1.0), (0.0,), (1.0,))


def scale_fields(loaded: LoadedModel) -> dict[str, list[float]]:
    """Return ``mean`` and ``std`` of a model's inputs by name; 0 and 1 where they are not known."""
    mean, std = loaded.scale or ((0.0,), (1.0,))
    return {"mean": list(mean), "std": list(std)}
