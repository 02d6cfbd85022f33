"""timm's evaluation transforms for pictures of any number of channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xai_align.data import picture_channels


class OfChannels(picture_channels.OfChannels):
    """Transform of timm for a model with any number of channels.

    timm's transforms resize and crop PIL images, which have one or three channels; their steps also accept tensors, and
    so resize, crop and normalise arrays with any number of channels in the same way.

    Args:
        transform: what ``timm.data.create_transform`` makes for evaluation.
        channels: the channels of the model's input.

    Example::

        transform = create_transform((12, 64, 64), mean=(0.5,) * 12, std=(0.2,) * 12)
        OfChannels(transform, 12)(np.random.rand(80, 80, 12)).shape  # [12, 64, 64]
    """

    def of_array(self, x: Tensor) -> Any:
        """Return the values of an array ``[C, H, W]``, float32, as the model expects them."""
        for step in self.transform.transforms:
            if isinstance(getattr(step, "fill", None), tuple | list):  # a border in a colour of 8 bits
                colour = torch.tensor(step.fill, dtype=x.dtype).reshape(-1, 1, 1) / 255
                x = type(step)(step.size, fill=0)(x - colour) + colour
                continue
            normalises = hasattr(step, "mean")
            x = step(x.clamp(0, 1) if normalises else x)  # cubic interpolation leaves the range, unlike for pictures
        return x
