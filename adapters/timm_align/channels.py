"""timm's evaluation transforms for pictures of any number of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class OfChannels:
    """A transform of timm for a model with so many channels.

    timm's transforms resize and crop PIL images, which have one or three channels; their steps take tensors, too, and
    so resize, crop and normalise arrays with any number of channels alike.

    Args:
        transform: what ``timm.data.create_transform`` makes for evaluation.
        channels: the channels of the model's input.

    Example::

        transform = create_transform((12, 64, 64), mean=(0.5,) * 12, std=(0.2,) * 12)
        OfChannels(transform, 12)(np.random.rand(80, 80, 12)).shape  # [12, 64, 64]
    """

    def __init__(self, transform: Any, channels: int) -> None:
        self.transform, self.channels = transform, channels

    def __call__(self, picture: Any) -> Any:
        """Return a PIL image, or an array ``[H, W, C]`` in [0, 1], as the model takes it, ``[C, H, W]``.

        Raises:
            ValueError: it has other channels than the model.
        """
        if isinstance(picture, np.ndarray):
            if picture.ndim == 3 and picture.shape[2] == self.channels:
                return self._of_array(picture)
        elif self.channels in (1, 3):
            return self.transform(picture.convert("L") if self.channels == 1 else picture)
        found = picture.shape[-1] if isinstance(picture, np.ndarray) else len(picture.getbands())
        raise ValueError(
            f"the picture has {found} channels and the model takes {self.channels}: load the model with --in-chans "
            f"{found}, and weights for so many, or give pictures with {self.channels}"
        )

    def _of_array(self, picture: Any) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32))
        for step in self.transform.transforms:
            if isinstance(getattr(step, "fill", None), tuple | list):  # a border in a colour of 8 bits
                colour = torch.tensor(step.fill, dtype=x.dtype).reshape(-1, 1, 1) / 255
                x = type(step)(step.size, fill=0)(x - colour) + colour
                continue
            normalises = hasattr(step, "mean")
            x = step(x.clamp(0, 1) if normalises else x)  # cubic interpolation leaves the range, unlike for pictures
        return x
