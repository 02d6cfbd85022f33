"""Random crops of a few photographs, as a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from xai_align.data.images import open_image

#: Smallest share of a photograph that a crop shows.
SMALLEST = 0.35


class Crops(Dataset[tuple[Tensor, int]]):
    """Random crops of photographs at 224 x 224, mirrored half of the time, in the network's units.

    Args:
        files: the photographs.
        labels: their classes.
        mean, std: mean and standard deviation of the units, one for each channel; EfficientNet-Lite0's by default.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: Sequence[int],
        *,
        mean: Sequence[float] = (0.5,) * 3,
        std: Sequence[float] = (0.5,) * 3,
    ) -> None:
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
        self.pixels = [torch.from_numpy(np.array(open_image(f).convert("RGB"))).permute(2, 0, 1) for f in files]
        self.labels = list(labels)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        whole = self.pixels[index]
        top, left, height, width = random_part(whole.shape[1], whole.shape[2])
        part = whole[None, :, top : top + height, left : left + width].float() / 255
        crop = (interpolate(part, (224, 224), mode="bilinear", antialias=True)[0] - self.mean) / self.std
        return (crop.flip(2) if torch.rand(()) < 0.5 else crop), self.labels[index]


def random_part(height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a part from :data:`SMALLEST` to all, with aspect ratio 3:4 to 4:3."""
    for _ in range(10):
        area = (SMALLEST + (1 - SMALLEST) * float(torch.rand(()))) * height * width
        proportion = math.exp((2 * float(torch.rand(())) - 1) * math.log(4 / 3))
        w, h = round((area * proportion) ** 0.5), round((area / proportion) ** 0.5)
        if w <= width and h <= height:
            return int(torch.randint(height - h + 1, ())), int(torch.randint(width - w + 1, ())), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
