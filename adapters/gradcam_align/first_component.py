"""``eigen_smooth``: the first principal component of a map with channels."""

from __future__ import annotations

import torch
from torch import Tensor


def first_component(maps: Tensor) -> Tensor:
    """``[N, C, h, w]`` to ``[N, h, w]``: each image's channels, centred, on their first principal axis.

    ``A`` is ``[h w, C]`` with the mean of every channel taken out; the map is ``A v`` with ``v`` the
    leading eigenvector of ``A^T A`` (as Eigen-CAM, arXiv 2008.00299). The sign of ``v``, which the
    algebra leaves open, is the one with which the map goes along with the sum over channels.
    """
    a = maps.flatten(2).transpose(1, 2).double()
    a = a - a.mean(1, keepdim=True)
    v = torch.linalg.eigh(a.transpose(1, 2) @ a).eigenvectors[..., -1:]
    component = (a @ v).squeeze(-1)
    along = (component * a.sum(-1)).sum(1, keepdim=True)
    component = torch.where(along < 0, -component, component)
    return component.reshape(len(maps), *maps.shape[2:]).to(maps.dtype)


def channel_sum(maps: Tensor) -> Tensor:
    """``[N, C, h, w]`` to ``[N, h, w]``."""
    return maps.sum(1)
