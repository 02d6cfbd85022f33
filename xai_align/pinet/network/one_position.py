"""Gradient-free decomposition of a head that averages positions, one position at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xai_align.features.spatial import layout_of
from xai_align.hookspecs import FeatureSpace

#: Largest number of positions in one pass through the head.
AT_ONCE = 128


def decompose_by_position(space: FeatureSpace, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return cells ``[N, K, P]`` and bias ``[K]`` of a head that averages positions.

    For such a head ``logits = mean_p A z_p + b``; given one position, it
    computes ``A z_p + b``, so that ``c_p = (head(z_p) - head(0)) / P``.
    """
    assert space.split is not None
    head = space.split.head
    positions = one_position_each(space, z)
    bias = head(torch.zeros_like(positions[:1]))[0]
    count = positions.shape[0] // z.shape[0]
    # a head that is a rerun of the whole network takes as many images as positions
    logits = torch.cat([head(some) for some in positions.split(AT_ONCE)])
    return (logits - bias).unflatten(0, (z.shape[0], count)).transpose(1, 2) / count, bias


def positions_last(z: Tensor, space: FeatureSpace) -> Tensor:
    """Return features of any layout as ``[N, C, P]``, prefix tokens first."""
    layout = layout_of(z, space)
    if layout == "NCHW":
        return z.flatten(2)
    if layout == "NHWC":
        return z.flatten(1, 2).transpose(1, 2)
    return z if layout == "NCL" else z.transpose(1, 2)


def one_position_each(space: FeatureSpace, z: Tensor) -> Tensor:
    """Return ``[N, …]`` features as ``[N * P, …]`` features of one position each, prefix and suffix tokens zero."""
    layout = layout_of(z, space)
    if layout == "NCHW":
        return z.flatten(2).transpose(1, 2).reshape(-1, z.shape[1], 1, 1)
    if layout == "NHWC":
        return z.reshape(-1, 1, 1, z.shape[-1])
    if layout == "NCL":
        return z.transpose(1, 2).reshape(-1, z.shape[1], 1)
    patches = z[:, space.patches(z.shape[1])].reshape(-1, 1, z.shape[-1])
    return nn.functional.pad(patches, (0, 0, space.prefix_tokens, space.suffix_tokens))
