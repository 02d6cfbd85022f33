r"""Purity of channels: how much of the feature vector at a channel's strongest position is that channel.

For a mixed map ``v[p] = U z[p]`` of an image, with ``p* = argmax_p v_k[p]`` of channel ``k``,

    purity(k) = v_k[p*] / ||v[p*]||.

A channel's prototypes are the images with the largest sum ``sum_p v_k[p]``. Since the sum goes through ``U``, images
are ranked by ``U`` times their summed features, without their maps.

Source: EPIC, Borycki et al. (AAAI 2026, arXiv 2505.12897).
"""

from __future__ import annotations

import torch
from torch import Tensor

from xai_align._tools.counted import counted

#: Elements of mixed maps that are in memory at a time.
_AT_A_TIME = 2**23


def prototype_images(sums: Tensor, matrix: Tensor, count: int, sign: int = 1) -> tuple[Tensor, Tensor]:
    """Return each channel's ``count`` images with the largest activation, and these activations, both ``[D, count]``.

    Of equal activations the earlier image comes first.

    Args:
        sums: features ``[N, D]`` summed over positions.
        matrix: ``U``, ``[D, D]``.
        count: number of images, at most ``N``.
        sign: -1: the images with the lowest activation.
    """
    found = []
    for rows in matrix.split(max(1, _AT_A_TIME // len(sums))):
        activations = sums @ rows.T
        order = (sign * activations).sort(dim=0, descending=True, stable=True).indices[:count]
        found.append((order.T, activations.gather(0, order).T))
    images, values = zip(*found, strict=True)
    return torch.cat(images), torch.cat(values)


def strongest_positions(maps: Tensor, matrix: Tensor, sign: int = 1) -> Tensor:
    """Return ``[N, D]``, the position of each mixed channel's largest value, for ``maps [N, P, D]``."""
    count = max(1, _AT_A_TIME // (maps.shape[1] * maps.shape[2]))
    found = [(sign * (part.to(matrix) @ matrix.T)).argmax(1) for part in maps.split(count)]
    return torch.cat(found).to(maps.device)


def purity_at(vectors: Tensor, matrix: Tensor, channels: Tensor) -> Tensor:
    """Return the purity ``[B]`` of features ``[B, D]``, each for its own channel; 0 where the features are 0."""
    mixed = vectors @ matrix.T
    norm = mixed.norm(dim=1)
    return mixed.gather(1, channels[:, None])[:, 0] / norm.clamp_min(torch.finfo(norm.dtype).tiny)


def channel_purity(
    maps: Tensor, matrix: Tensor, count: int, sums: Tensor | None = None, positions: Tensor | None = None
) -> Tensor:
    """Return ``[D]``, each channel's mean purity over its ``count`` prototypes among images with maps ``[N, P, D]``.

    Args:
        maps: features of the images.
        matrix: ``U``, ``[D, D]``.
        count: number of prototypes.
        sums: ``maps.sum(1)``, if it is known.
        positions: ``[N, D]``, where each channel is strongest, if it is known.

    Raises:
        ValueError: there are fewer images.

    Example::

        maps = torch.rand(20, 4, 8)  # 20 images, 4 positions, 8 channels
        channel_purity(maps, torch.eye(8), 5)  # [8]
    """
    if len(maps) < count:
        raise ValueError(
            f"{counted(len(maps), 'image')}, and {counted(count, 'prototype')} need{'s' * (count == 1)} {count}; "
            "give more images or a smaller count"
        )
    sums = maps.sum(1) if sums is None else sums
    images, _ = prototype_images(sums.to(matrix), matrix, count)
    positions = strongest_positions(maps, matrix) if positions is None else positions
    channels = torch.arange(len(matrix), device=images.device)[:, None].expand_as(images)
    pairs = (images.flatten().to(maps.device), channels.flatten().to(maps.device))
    parts = []
    for image, channel in zip(*(one.split(2**14) for one in pairs), strict=True):
        vectors = maps[image, positions[image, channel]].to(matrix)
        parts.append(purity_at(vectors, matrix, channel.to(matrix.device)))
    return torch.cat(parts).reshape(images.shape).mean(1)
