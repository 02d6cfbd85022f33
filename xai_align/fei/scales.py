"""Gradient on a grid of cells, combined over several scales.

Single cells of a masked image are prone to adversarial solutions: their gradients
differ in sign from neighbour to neighbour and from step to step. So a step
follows

    g' = sum_j w_j u(G_j * g)        u(g) = g / |g|,   G_j a Gaussian of sigma_j cells

divided by its root mean square, so that steps have the same size for all images,
independent of their logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isfinite

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

#: ``(sigma_j in cells, w_j)``.
SCALES = ((0.0, 0.7), (1.0, 0.5), (2.5, 0.5))


def at_scales(gradient: Tensor, scales: Sequence[tuple[float, float]]) -> Tensor:
    """Return ``g'`` for gradients ``[N, h, w]``, with root mean square 1; zero if the gradient is zero."""
    mixed = gradient.new_zeros(gradient.shape)
    for sigma, weight in scales:
        mixed = mixed + weight * _unit(smoothed(gradient, sigma))
    return _unit(mixed) * (gradient.shape[1] * gradient.shape[2]) ** 0.5


def smoothed(cells: Tensor, sigma: float) -> Tensor:
    """Smooth cells ``[N, h, w]`` by a Gaussian of ``sigma`` cells, truncated at three sigma; borders are replicated.

    A Gaussian that is wider than the grid becomes the mean over all cells.
    """
    if sigma == 0:
        return cells
    if sigma > max(cells.shape[1:]):
        return cells.mean((1, 2), keepdim=True).expand_as(cells)
    radius = ceil(3 * sigma)
    offset = torch.arange(-radius, radius + 1, dtype=cells.dtype, device=cells.device)
    kernel = torch.exp(-offset.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    wide = pad(cells[:, None], (radius,) * 4, mode="replicate")
    return conv2d(conv2d(wide, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]


def check_scales(scales: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return the scales, pairs ``(sigma_j, w_j)``, as pairs of floats.

    Raises:
        ValueError: there are none, or a width or a weight is negative or not finite.
    """
    try:
        given = tuple((float(sigma), float(weight)) for sigma, weight in scales)
        fine = all(isfinite(number) and number >= 0 for pair in given for number in pair)
    except (TypeError, ValueError):  # not pairs, or not numbers
        given, fine = (), False
    if not fine or not any(weight for _, weight in given):
        raise ValueError(
            f"scales are {scales!r}; give pairs (sigma in cells, weight), zero or more, one weight above zero"
        )
    return given


def _unit(gradient: Tensor) -> Tensor:
    norm = gradient.flatten(1).norm(dim=1)[:, None, None]
    return gradient / torch.where(norm > 0, norm, 1)
