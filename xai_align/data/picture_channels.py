"""Pictures for models with any number of channels: PIL images for one or three, arrays otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from xai_align._tools.counted import counted


class OfChannels:
    """Transform of pictures for a model with any number of channels.

    Args:
        transform: from a PIL image, or a tensor ``[C, H, W]`` in [0, 1], to the model's input.
        channels: the channels of the model's input.

    Example::

        OfChannels(lambda x: x - 0.5, 12)(np.random.rand(80, 80, 12)).shape  # [12, 80, 80]
    """

    def __init__(self, transform: Any, channels: int) -> None:
        self.transform, self.channels = transform, channels

    def __call__(self, picture: Any) -> Any:
        """Return a PIL image, or an array ``[H, W, C]`` in [0, 1], as the model expects it, ``[C, H, W]``.

        Raises:
            ValueError: it has other channels than the model.
        """
        if isinstance(picture, np.ndarray):
            if picture.ndim == 3 and picture.shape[2] == self.channels:
                return self.of_array(torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)))
        elif self.channels in (1, 3):
            return self.transform(picture.convert("L") if self.channels == 1 else picture)
        found = picture.shape[-1] if isinstance(picture, np.ndarray) else len(picture.getbands())
        raise ValueError(
            f"the picture has {counted(found, 'channel')} and the model takes {self.channels}: load the model with "
            "--in-chans "
            f"{found}, and weights for so many, or give pictures with {self.channels}"
        )

    def of_array(self, x: Tensor) -> Any:
        """Return the values of an array ``[C, H, W]``, float32, as the model expects them."""
        return self.transform(x)
