"""iGOS++: a mask for deletion and one for insertion, whose product is the answer, moved by integrated gradients.

Khorram, Lawson & Li, iGOS++: Integrated Gradient Optimized Saliency by
Bilateral Perturbations, CHIL 2021, arXiv 2012.15783, with the settings of the
authors' code. A mask hides where it is 0. For an image ``x`` and its blur ``b``

    Phi(M)  = M x + (1 - M) b
    D(M)    = mean_i p(Phi(i/T M)),             i = 1 ... T
    I(M)    = mean_i p(M' b + (1 - M') x),      M' = i/T M
    L       = 1/2 [D(M_d M_i) - I(M_d M_i) + D(M_d) - I(M_i)] + R(M_d M_i)
    R(M)    = mean|1 - M| + 20 BTV(M)

``BTV`` is half the mean squared difference of neighbouring cells, and of neighbouring
pixels where it counts ``exp(-(difference of the image)^2 / 0.01)``. Masks of 28 x 28
cells start at 1 and are moved by Nesterov's method; noise of 0.2 is added to the
network's input. The map is ``1 - M_d M_i``. Published: 15 steps with ``T`` = 20,
which is 1,200 passes, and a line search that begins at a rate of 1000 in every
step and takes forward passes of its own. Here the rate is 8, one of those that
it tries; 1000 throughout is too much for ``BTV``, and its maps are poor.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.peers.blurring import blurred

CELLS = 28
STEPS, POINTS = 15, 20
PUBLISHED = 4 * STEPS * POINTS
RATE, NOISE = 8.0, 0.2
L1, BTV, SIGMA = 1.0, 20.0, 0.01
BATCH = 8


def igos(
    model: nn.Module, x: Tensor, label: int, *, passes: int = PUBLISHED, rate: float = RATE, seed: int = 0
) -> Tensor:
    """Return ``1 - M_d M_i`` as pixels, ``[H, W]``, for one image ``[1, C, H, W]``."""
    steps, points = steps_and_points(passes)
    size, b = x.shape[-2:], blurred(x, 50.0, 25)
    generator = torch.Generator().manual_seed(seed)

    def slope(m: Tensor, shown: Tensor, behind: Tensor) -> Tensor:
        """Return ``d/dm`` of the mean probability along the path ``i/T m``, ``[1, 1, H, W]``."""
        total = torch.zeros_like(m)
        for share in ((torch.arange(points) + 1) / points).split(BATCH):
            part = share.view(-1, 1, 1, 1)
            masks = (part * m).requires_grad_()
            seen = masks * shown + (1 - masks) * behind
            seen = seen + NOISE * torch.randn(seen.shape, generator=generator)
            p = model(seen.contiguous(memory_format=torch.channels_last)).softmax(1)[:, label]
            total += (part * torch.autograd.grad(p.sum(), masks)[0]).sum(0, keepdim=True) / points
        return total

    cells = [torch.ones(1, 1, CELLS, CELLS) for _ in range(2)]  # M_d, M_i
    ahead = [one.clone() for one in cells]
    for step in range(steps):
        m_d, m_i = (one.clone().requires_grad_() for one in cells)
        up_d, up_i = (interpolate(one, size, mode="bilinear", align_corners=True) for one in (m_d, m_i))
        both = (up_d * up_i).detach()
        along_both = slope(both, x, b) - slope(both, b, x)
        outputs = [up_d * up_i, up_d, up_i, regularisation(m_d * m_i, x)]
        slopes = [along_both / 2, slope(up_d.detach(), x, b) / 2, -slope(up_i.detach(), b, x) / 2, torch.tensor(1.0)]
        moves = torch.autograd.grad(outputs, [m_d, m_i], slopes)
        for k, move in enumerate(moves):
            previous, ahead[k] = ahead[k], cells[k] - rate * move
            cells[k] = (ahead[k] + step / (step + 3) * (ahead[k] - previous)).clamp(0, 1)
    return 1 - interpolate(cells[0] * cells[1], size, mode="bilinear", align_corners=True)[0, 0]


def steps_and_points(passes: int) -> tuple[int, int]:
    """Return numbers of steps and of points of a path, in about the published proportion.

    Raises:
        ValueError: the passes are not enough for one of each.
    """
    if passes < 4:
        raise ValueError(f"passes is {passes}; one step takes at least 4")
    steps = max(1, isqrt(passes * STEPS // (4 * POINTS)))
    return steps, passes // (4 * steps)


def regularisation(m: Tensor, x: Tensor) -> Tensor:
    """Return ``R`` of a mask of cells ``[1, 1, h, w]`` over the image ``[1, C, H, W]``."""
    up = interpolate(m, x.shape[-2:], mode="bilinear", align_corners=True)
    btv = m.new_zeros(())
    for axis in (2, 3):
        edge = torch.exp(-x.diff(dim=axis).square().mean(1, keepdim=True) / SIGMA)
        btv = btv + 0.5 * (m.diff(dim=axis).square().mean() + (edge * up.diff(dim=axis).square()).mean())
    return L1 * (1 - m).abs().mean() + BTV * btv
