"""Pictures whose class is the colour of a square: evidence whose position is known to the pixel.

A picture has 32 x 32 pixels: coloured noise, coarse and fine, and small rectangles of random colours. A square of 8 x 8
pixels lies on them, somewhere, in one of six colours, with the same fine noise. The class is the square's colour; all
else is drawn independently of it. A covered picture is the same one without the square.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SIDE, SQUARE = 32, 8
#: The classes and their colours.
COLOURS = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.9, 0.1),
    "blue": (0.1, 0.1, 0.9),
    "yellow": (0.9, 0.9, 0.1),
    "magenta": (0.9, 0.1, 0.9),
    "cyan": (0.1, 0.9, 0.9),
}
NAMES = tuple(COLOURS)
#: Rectangles of the clutter, and the lengths of their sides in pixels.
RECTANGLES, SIDES = 16, (1, 2, 3, 4)
#: Standard deviations of the noise, coarse (cells of 4 pixels) and fine (pixels).
COARSE, FINE = 0.15, 0.08
#: Normalisation to a mean of about 0 and a spread of about 1.
MEAN, STD = 0.5, 0.25


@dataclass(frozen=True)
class Pictures:
    """Pictures ``[N, 3, 32, 32]`` (normalised), the same without the squares, labels ``[N]``, masks ``[N, 32, 32]``."""

    images: Tensor
    covered: Tensor
    labels: Tensor
    masks: Tensor

    def __getitem__(self, which: Tensor) -> Pictures:
        """Return some of them."""
        return Pictures(self.images[which], self.covered[which], self.labels[which], self.masks[which])


def pictures(count: int, seed: int) -> Pictures:
    """Draw this number of pictures."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, SIDE // 4, SIDE // 4, generator=random) * COARSE
    canvas = 0.5 + functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")
    for _ in range(RECTANGLES):
        height, width = torch.tensor(SIDES)[torch.randint(len(SIDES), (2, count), generator=random)]
        colours = torch.rand(count, 3, generator=random)
        canvas = torch.where(_boxes(height, width, random)[:, None], colours[..., None, None], canvas)
    labels = torch.randint(len(NAMES), (count,), generator=random)
    masks = _boxes(torch.full((count,), SQUARE), torch.full((count,), SQUARE), random)
    planted = torch.where(masks[:, None], torch.tensor(list(COLOURS.values()))[labels][..., None, None], canvas)
    fine = torch.randn(count, 3, SIDE, SIDE, generator=random) * FINE
    images, covered = (((x + fine).clamp(0, 1) - MEAN) / STD for x in (planted, canvas))
    return Pictures(images, covered, labels, masks)


def _boxes(height: Tensor, width: Tensor, random: torch.Generator) -> Tensor:
    """Return rectangles of these sides ``[N]``, each somewhere in the picture: ``[N, 32, 32]``, bool."""
    sides = torch.stack([height, width])
    begin = (torch.rand(sides.shape, generator=random) * (SIDE - sides + 1)).long()
    pixels = torch.arange(SIDE)
    rows, columns = (pixels >= begin[..., None]) & (pixels < (begin + sides)[..., None])
    return rows[:, :, None] & columns[:, None, :]
