"""Extremal perturbations: for each of a few areas, the smooth mask of that area that keeps the answer highest.

Fong, Patrick & Vedaldi, Understanding Deep Networks via Extremal
Perturbations and Smooth Masks, ICCV 2019, arXiv 1910.08485, sections 3.1 to
3.3: a mask on a coarse grid (one cell for 7 pixels), smoothed by a
max-convolution with a kernel of sigma 21 pixels, an area constraint on its sorted
values that grows by 0.35 % a step, a pyramid of blurs up to sigma 20 behind it,
SGD with learning rate 0.01 and momentum 0.9, 800 steps, mirrored every
second step. All areas of an image go through the network together, a pass for
each. With fewer steps, the weight of the area grows as much in all of them as
in 800.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, unfold

from benchmarks.peers.blurring import blurred

#: Shares of the picture whose masks are averaged to one map.
AREAS = (0.05, 0.1, 0.2, 0.4)
STEP, SIGMA, LEVELS, MAX_BLUR = 7, 21.0, 8, 20.0
STEPS, RATE = 800, 0.01
PUBLISHED = STEPS * len(AREAS)
#: Temperature of the smooth maximum.
TEMPERATURE = 20.0


def extremal_perturbation(
    model: nn.Module, x: Tensor, label: int, *, passes: int = PUBLISHED, areas: Sequence[float] = AREAS
) -> Tensor:
    """Return the mean of the masks for these areas, ``[H, W]``, for one image ``[1, C, H, W]``.

    Raises:
        ValueError: the passes are not enough for one step.
    """
    steps = passes // len(areas)
    if not steps:
        raise ValueError(f"passes is {passes}; one step of {len(areas)} areas takes as many as there are areas")
    count, (height, width) = len(areas), x.shape[-2:]
    rows, columns = ceil(height / STEP), ceil(width / STEP)
    sigmas = [MAX_BLUR * (1 - level / (LEVELS - 1)) for level in range(LEVELS)]
    pyramid = torch.cat([blurred(x, sigma, ceil(3 * sigma)) for sigma in sigmas])
    # the area constraint (eq. 5): the sorted mask should be a step of ones of the wanted length
    template = torch.stack([(torch.arange(height * width) >= (1 - a) * height * width).float() for a in areas])
    cells = torch.ones(count, 1, rows, columns, requires_grad=True)
    optimiser = torch.optim.SGD([cells], lr=RATE, momentum=0.9, dampening=0.9)
    weight = 300.0
    for step in range(steps):
        mask = _smooth(cells, height, width)
        seen = _perturbed(pyramid, mask)
        if step % 2:
            seen = seen.flip(-1)
        reward = model(seen.contiguous(memory_format=torch.channels_last))[:, label]
        sorted_mask = mask.flatten(1).sort(1).values
        loss = (weight * (sorted_mask - template).square().mean(1) - reward).sum()
        optimiser.zero_grad()
        cells.grad = torch.autograd.grad(loss, cells)[0]
        optimiser.step()
        with torch.no_grad():
            cells.clamp_(0, 1)
        weight *= 1.0035 ** (STEPS / steps)
    return _smooth(cells, height, width).detach().mean(0)[0]


def _smooth(cells: Tensor, height: int, width: int) -> Tensor:
    """Return ``m(u) = smax_v k(u - v) m_v`` (eq. 9 and section 3.3), ``[K, 1, H, W]``.

    The kernel has a radius of ``2 sigma``, which is six cells. It varies slowly over a cell of 7 pixels, so the maximum
    is taken at the cells' centres and interpolated between them.
    """
    reach = ceil(2 * SIGMA / STEP)
    near = unfold(pad(cells, (reach,) * 4), 2 * reach + 1)  # [K, V, rows * columns]
    offset = torch.arange(-reach, reach + 1) * STEP
    distance = (offset[:, None].square() + offset.square()).sqrt()
    kernel = torch.exp(-(distance - SIGMA / 2).clamp(min=0).square() / (2 * (SIGMA / 2) ** 2))
    scores = kernel.reshape(1, -1, 1) * near
    value = (scores * torch.softmax(TEMPERATURE * scores, dim=1)).sum(1).reshape(cells.shape)
    return interpolate(value, (height, width), mode="bilinear")


def _perturbed(pyramid: Tensor, mask: Tensor) -> Tensor:
    """Interpolate each pixel between the two levels of the pyramid that enclose its mask value."""
    level = mask * (len(pyramid) - 1)
    lower = level.detach().floor().clamp(max=len(pyramid) - 2)
    share = level - lower
    index = lower.long().expand(-1, pyramid.shape[1], -1, -1)
    levels = pyramid[None].expand(len(mask), -1, -1, -1, -1)
    low = levels.gather(1, index[:, None]).squeeze(1)
    high = levels.gather(1, index[:, None] + 1).squeeze(1)
    return (1 - share) * low + share * high
