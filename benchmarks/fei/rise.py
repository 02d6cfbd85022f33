"""RISE: the mean of random masks, each weighted by what the network says of the image behind it.

Petsiuk, Das & Saenko, RISE: Randomized Input Sampling for Explanation of
Black-box Models, BMVC 2018, arXiv 1806.07421, section 3: binary grids of
7 x 7 cells, each on with probability 0.5, upsampled bilinearly to one cell
more than the image and cut out at a random shift; what is masked is black in
normalised space, i.e. zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


@torch.no_grad()
def rise(
    model: nn.Module,
    x: Tensor,
    target: int,
    *,
    masks: int = 4000,
    grid: int = 7,
    p: float = 0.5,
    batch: int = 16,
    seed: int = 0,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """``S = 1 / (E[M] N) sum_i f(x * M_i) M_i`` (eq. 6), ``[H, W]``, for one image ``[1, C, H, W]``."""
    height, width = x.shape[-2:]
    rows, columns = -(-height // grid), -(-width // grid)  # pixels of a cell
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(height, width)
    for first in range(0, masks, batch):
        count = min(batch, masks - first)
        cells = (torch.rand(count, 1, grid, grid, generator=generator) < p).float()
        wide = interpolate(cells, ((grid + 1) * rows, (grid + 1) * columns), mode="bilinear", align_corners=False)
        down = torch.randint(0, rows, (count,), generator=generator).tolist()
        right = torch.randint(0, columns, (count,), generator=generator).tolist()
        m = torch.stack([one[:, r : r + height, c : c + width] for one, r, c in zip(wide, down, right, strict=True)])
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            logits = model((x * m).contiguous(memory_format=torch.channels_last))
        weight = logits.float().softmax(1)[:, target]
        total += torch.einsum("n,nhw->hw", weight, m[:, 0])
    return total / (p * masks)
