"""Regions of an image that follow its colours: SLICO superpixels.

Achanta et al., SLIC Superpixels Compared to State-of-the-art Superpixel
Methods, PAMI 2012: k-means of the pixels by colour and place, from centres on a
grid of step ``S``, each centre limited to a distance of ``S`` to each side.
SLICO is its form without a weight for compactness: a centre ``k`` measures

    D^2 = (d_colour / m_k)^2 + (d_place / S)^2

with ``m_k`` the largest colour distance in its region before. Here colours are
the image's channels as they are, and regions are not made connected afterwards.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

ITERATIONS = 10


def slico(x: Tensor, count: int) -> Tensor:
    """Return the labels of at most ``count`` regions, from 0 on, ``[H, W]``, for one image ``[1, C, H, W]``."""
    height, width = x.shape[-2:]
    if not 1 <= count <= height * width:
        raise ValueError(f"count is {count}, the image has {height * width} pixels; give a count from 1 to that number")
    rows = min(isqrt(count), height)
    columns = min(count // rows, width)
    place = torch.cartesian_prod(torch.arange(height) + 0.5, torch.arange(width) + 0.5)  # [P, 2]
    colour = x[0].flatten(1).T.to(place.dtype)  # [P, C]
    step = torch.tensor([height / rows, width / columns])
    found = (place / step).long() @ torch.tensor([columns, 1])  # the grid's own cells
    largest = torch.full((rows * columns,), float((colour - colour.mean(0)).norm(dim=1).max().clamp_min(1e-12)))
    for _ in range(ITERATIONS):
        members = torch.zeros(rows * columns, len(place)).scatter_(0, found[None], 1.0)
        members = members / members.sum(1, keepdim=True).clamp_min(1)
        centres, colours = members @ place, members @ colour
        apart = (place[:, None] - centres) / step  # [P, K, 2]
        d_colour = torch.cdist(colour, colours)
        distance = (d_colour / largest).square() + apart.square().sum(2)
        near = (apart.abs() <= 1).all(2)
        distance = torch.where(near, distance, distance + 1e6)  # far centres only where there is no near one
        found = distance.argmin(1)
        own = d_colour.gather(1, found[:, None])[:, 0]
        largest = torch.zeros_like(largest).scatter_reduce_(0, found, own, "amax").clamp_min(1e-6)
    return torch.unique(found, return_inverse=True)[1].reshape(height, width)
