"""Nodes of an autograd graph behind a sampling whose places depend on the image, as in a spatial transformer."""

from __future__ import annotations

from typing import Any

from xai_align.features.dominating_nodes import following, topological

#: Autograd's nodes of ``grid_sample``; the second of the tensors they come from is the grid.
_SAMPLERS = ("GridSampler2D", "GridSampler3D", "CudnnGridSampler")


def behind_moving_samplers(root: Any) -> set[Any]:
    """Return the nodes whose values passed through a ``grid_sample`` with a grid that depends on the leaves.

    Args:
        root: the ``grad_fn`` of the output; the leaves of its graph are images.

    Example::

        grid = F.affine_grid(theta(images), images.shape)  # images require grad
        moved = F.grid_sample(images, grid).relu()
        moved.grad_fn in behind_moving_samplers(moved.sum().grad_fn)  # True
    """
    behind: set[Any] = set()
    for node in reversed(topological(root)):
        if _depends_in_its_places(node) or not behind.isdisjoint(following(node)):
            behind.add(node)
    return behind


def _depends_in_its_places(node: Any) -> bool:
    return node.name().startswith(_SAMPLERS) and node.next_functions[1][0] is not None
