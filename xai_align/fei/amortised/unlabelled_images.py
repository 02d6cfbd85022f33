"""Images of a fit without labels: a tensor, a data set, or the data set of a loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xai_align._tools.checks import check_finite
from xai_align._tools.images import check_images


class UnlabelledImages:
    """Images by their numbers, all of one shape.

    Args:
        data: images ``[N, C, H, W]``; a data set of images ``[C, H, W]``, or of tuples that begin with one; or a
            ``DataLoader``, of which the data set is taken: batches and their order are the fit's own.
        name: what they are, for messages.

    Raises:
        TypeError: it is none of these.
        ValueError: there are none.
    """

    def __init__(self, data: Any, name: str) -> None:
        data = data.dataset if isinstance(data, DataLoader) else data
        if isinstance(data, Tensor):
            check_images(name, data)
        elif not (isinstance(data, Dataset) and hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise TypeError(
                f"{name} are {type(data).__name__}; give a tensor [N, C, H, W], a data set of known length whose items "
                "are images [C, H, W] or begin with one, or a DataLoader of such a data set"
            )
        self.data: Any = data
        self.name = name
        self.count = len(data)
        if not self.count:
            raise ValueError(f"{name} hold no image")
        self.shape = tuple(self._one(0).shape)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.count

    def take(self, numbers: Sequence[int]) -> Tensor:
        """Return the images of these numbers, ``[n, C, H, W]``.

        Raises:
            TypeError, ValueError: an item is not an image, is of another shape than the first, or has NaN or infinity.
        """
        if isinstance(self.data, Tensor):
            return self.data[torch.as_tensor(numbers, device=self.data.device)]
        found = [self._one(number) for number in numbers]
        for number, image in zip(numbers, found, strict=True):
            if tuple(image.shape) != self.shape:
                raise ValueError(
                    f"image {number} of {self.name} has shape {list(image.shape)} and image 0 has {list(self.shape)}; "
                    "crop or resize all to the size that the network is used with"
                )
        images = torch.stack(found)
        check_finite(f"images {list(numbers)} of {self.name}", images)
        return images

    def _one(self, number: int) -> Tensor:
        item = self.data[number]
        image = item[0] if isinstance(item, tuple | list) and item else item
        if not isinstance(image, Tensor) or not image.is_floating_point() or image.dim() != 3:
            found = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise TypeError(
                f"item {number} of {self.name} is {found}; items are floating-point images [C, H, W], preprocessed, "
                "or tuples that begin with one"
            )
        return image
