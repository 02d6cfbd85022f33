"""``eigen_smooth``: the first principal component of a map with channels."""

from __future__ import annotations

import torch
from torch import Tensor


def first_component(maps: Tensor) -> Tensor:
    """Project each image's centred channels ``[N, C, h, w]`` on their first principal axis, to ``[N, h, w]``.

    ``A`` is ``[h w, C]`` with the mean of every channel subtracted; the map is ``A v`` with ``v`` the
    leading eigenvector of ``A^T A`` (as in Eigen-CAM, arXiv 2008.00299). The sign of ``v``, which is
    not determined, is chosen so that the map correlates positively with the sum over channels.
    """
    a = maps.flatten(2).transpose(1, 2)
    a = (a.cpu() if a.device.type == "mps" else a).double()  # which has neither float64 nor eigenvectors
    a = a - a.mean(1, keepdim=True)
    v = torch.linalg.eigh(a.transpose(1, 2) @ a).eigenvectors[..., -1:]
    component = (a @ v).squeeze(-1)
    along = (component * a.sum(-1)).sum(1, keepdim=True)
    component = torch.where(along < 0, -component, component)
    return component.reshape(len(maps), *maps.shape[2:]).to(maps)


def channel_sum(maps: Tensor) -> Tensor:
    """Sum ``[N, C, h, w]`` over channels to ``[N, h, w]``."""
    return maps.sum(1)
