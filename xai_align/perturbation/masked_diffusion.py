"""Diffusion into removed pixels of images: each becomes the weighted mean of its eight neighbours.

With the weights ``w`` of the neighbours (2 for a direct one, 1 for a diagonal
one, none outside the image) the removed pixels ``u`` solve

    (L x)_u = sum_n w_n (x_u - x_n) = 0,    x known everywhere else,

the steady state of heat diffusing from the known pixels into the holes. ``L`` is
symmetric and positive definite on the removed pixels, so conjugate gradients find
``x``; a multigrid V-cycle as preconditioner (Briggs, Henson & McCormick, A
Multigrid Tutorial, 2000) keeps the number of steps small for holes of any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from xai_align._tools.counted import counted

#: Large holes in photographs take five to ten steps.
MOST_STEPS = 100


def fill_holes(values: Tensor, removed: Tensor, *, tolerance: float) -> Tensor:
    """Return the values with every removed pixel replaced by the weighted mean of its eight neighbours.

    Each example is solved until its own next correction moves no pixel by more
    than ``tolerance``, so it does not depend on the others. The remaining error is
    mostly below that; it was three times as large for the worst of the masks tried.

    Args:
        values: ``[M, C, H, W]``, float32 or float64, of order one; values at removed pixels are not read.
        removed: ``[M, 1, H, W]``, bool; at least one pixel of each example is known.
        tolerance: in the units of ``values``.

    Raises:
        RuntimeError: the solver did not reach the tolerance.
    """
    levels = _levels(removed.to(values.dtype))
    x = _first_guess(values.masked_fill(removed, 0), levels)
    solution, unsolved = torch.empty_like(x), torch.arange(len(x), device=x.device)

    # flexible conjugate gradients (Notay 2000, SIAM J. Sci. Comput. 22): the V-cycle is not exactly symmetric
    r = before = _residual(x, levels[0])
    p, zr = torch.zeros_like(x), _dot(x, x)
    for _ in range(MOST_STEPS):
        z = _v_cycle(r, levels)  # approximately the error of x
        going = z.abs().amax((1, 2, 3)) > tolerance
        if not going.all():
            solution[unsolved[~going]] = x[~going] + z[~going]
            if not going.any():
                return solution
            unsolved, x, r, before, z, p, zr = (kept[going] for kept in (unsolved, x, r, before, z, p, zr))
            levels = [level.of(going) for level in levels]
        p = z + _ratio(_dot(z, r - before), zr) * p
        zr, q = _dot(z, r), -_residual(p, levels[0])
        alpha = _ratio(_dot(p, r), _dot(p, q))
        x, r, before = torch.addcmul(x, alpha, p), torch.addcmul(r, alpha, q, value=-1), r
    raise RuntimeError(
        f"the holes of {counted(len(unsolved), 'image')} were not filled to {tolerance:g} after {MOST_STEPS} steps; "
        "give a larger tolerance, or float64 inputs"
    )


@dataclass(frozen=True)
class _Level:
    """Pixels at one resolution; each level has half the rows and columns of the one before.

    Attributes:
        removed: ``[M, 1, h, w]``, 1 where a pixel is unknown and 0 where it is known.
        weights: ``[1, 1, h, w]``, the sum of the weights of a pixel's neighbours.
        inverse: ``removed / weights``, times the damping of a Jacobi step.
        gain: factor of a correction from the next level.
    """

    removed: Tensor
    weights: Tensor
    inverse: Tensor
    gain: float

    def of(self, examples: Tensor) -> _Level:
        return _Level(self.removed[examples], self.weights, self.inverse[examples], self.gain)


def _levels(removed: Tensor) -> list[_Level]:
    """Return the levels from full resolution to one pixel; a coarse pixel is known if any that it covers is."""
    weights = _neighbour_sum(torch.ones_like(removed[:1]))
    # high frequencies have eigenvalues of L / weights from 2/3 to 4/3 in a plane, and up to 2 in a single row;
    # in a row, halving the resolution also halves L
    damping, gain = (2 / 3, 2.0) if 1 in removed.shape[-2:] else (1.0, 1.0)
    level = _Level(removed, weights, damping * removed / weights.clamp(min=1), gain)
    if removed.shape[-2:] == (1, 1):
        return [level]
    return [level, *_levels((_sum_of_four(1 - removed) == 0).to(removed))]


def _first_guess(values: Tensor, levels: list[_Level]) -> Tensor:
    """Fill holes from the coarser levels, where a pixel is the mean of the known ones that it covers."""
    if len(levels) == 1:
        return values
    level, *coarser = levels
    covered = _sum_of_four(1 - level.removed).clamp(min=1)
    return values + level.removed * _upsampled(_first_guess(_sum_of_four(values) / covered, coarser), level)


def _v_cycle(r: Tensor, levels: list[_Level]) -> Tensor:
    """Return an approximate solution of ``L x = r`` that is zero at the known pixels.

    In two dimensions ``L`` is the same at each level: halving the resolution
    doubles differences on a quarter of the pixels, so sums of ``r`` over four
    pixels are the right-hand side of the coarser problem.
    """
    level, *coarser = levels
    x = r * level.inverse  # one Jacobi step from zero
    if not coarser:
        return x
    correction = _v_cycle(_sum_of_four(_residual(x, level).add_(r)), coarser)
    x = torch.addcmul(x, level.removed, _upsampled(correction, level), value=level.gain)
    return x.addcmul_(_residual(x, level).add_(r), level.inverse)


def _residual(x: Tensor, level: _Level) -> Tensor:
    """Return ``-L x`` at the removed pixels, zero at the known ones."""
    return _neighbour_sum(x).addcmul_(level.weights, x, value=-1).mul_(level.removed)


def _neighbour_sum(x: Tensor) -> Tensor:
    """Return ``sum_n w_n x_n`` over the eight neighbours inside the image."""
    # [1 2 1; 2 4 2; 1 2 1] is four sums of two neighbours each; the pixel itself is subtracted at the end
    s = functional.pad(x, (1, 1, 1, 1))
    s = s[..., 1:] + s[..., :-1]
    s = s[..., 1:] + s[..., :-1]
    s = s[..., 1:, :] + s[..., :-1, :]
    s = s[..., 1:, :] + s[..., :-1, :]
    return s.sub_(x, alpha=4)


def _sum_of_four(x: Tensor) -> Tensor:
    """Return sums over blocks of two by two pixels; at an odd border over those inside the image."""
    x = functional.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    x = x[..., ::2, :] + x[..., 1::2, :]
    return x[..., ::2] + x[..., 1::2]


def _upsampled(x: Tensor, level: _Level) -> Tensor:
    """Return ``x`` at twice its resolution, cropped to the size of ``level``."""
    height, width = level.removed.shape[-2:]
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear")[..., :height, :width]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the dot product of each channel, ``[M, C, 1, 1]``."""
    return (a * b).sum((-2, -1), keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a / b``; zero where a channel is solved exactly and both are zero."""
    return a / b.clamp(min=torch.finfo(b.dtype).tiny)
