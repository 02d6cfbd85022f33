"""RISE: the mean of random masks, each weighted by the network's answer for the masked image.

Petsiuk, Das & Saenko, RISE: Randomized Input Sampling for Explanation of
Black-box Models, BMVC 2018, arXiv 1806.07421, section 3: binary grids of
7 x 7 cells, each on with probability 0.5, upsampled bilinearly to one cell
more than the image and cropped at a random shift; masked pixels are black in
normalised space, i.e. zero. The paper uses 4,000 masks for VGG-16 and 8,000
for ResNet-50.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

PUBLISHED = 4000


@torch.no_grad()
def rise(
    model: nn.Module,
    x: Tensor,
    label: int,
    *,
    passes: int = PUBLISHED,
    grid: int = 7,
    p: float = 0.5,
    batch: int = 16,
    seed: int = 0,
) -> Tensor:
    """Return ``S = 1 / (E[M] N) sum_i f(x * M_i) M_i`` (eq. 6) of ``N = passes`` masks, ``[H, W]``.

    Raises:
        ValueError: there is no pass.
    """
    if passes < 1:
        raise ValueError(f"passes is {passes}; one mask takes 1")
    total = torch.zeros(x.shape[-2:])
    for m in random_masks(passes, x.shape[-2:], grid=grid, p=p, batch=batch, seed=seed):
        logits = model((x * m).contiguous(memory_format=torch.channels_last))
        weight = logits.float().softmax(1)[:, label]
        total += torch.einsum("n,nhw->hw", weight, m[:, 0])
    return total / (p * passes)


def random_masks(count: int, size: tuple[int, ...], *, grid: int, p: float, batch: int, seed: int) -> Iterator[Tensor]:
    """Yield the masks, up to ``batch`` at a time, ``[B, 1, H, W]``."""
    height, width = size
    rows, columns = -(-height // grid), -(-width // grid)  # pixels of a cell
    generator = torch.Generator().manual_seed(seed)
    for first in range(0, count, batch):
        some = min(batch, count - first)
        cells = (torch.rand(some, 1, grid, grid, generator=generator) < p).float()
        wide = interpolate(cells, ((grid + 1) * rows, (grid + 1) * columns), mode="bilinear", align_corners=False)
        down = torch.randint(0, rows, (some,), generator=generator).tolist()
        right = torch.randint(0, columns, (some,), generator=generator).tolist()
        yield torch.stack([one[:, r : r + height, c : c + width] for one, r, c in zip(wide, down, right, strict=True)])
