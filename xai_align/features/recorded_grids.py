"""Recorded layers whose outputs lie on a grid over the image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from xai_align.features.cut_network import as_raster
from xai_align.features.resolve_layer import resolve_layer
from xai_align.hookspecs import FeatureSpace


def recorded_grids(
    model: nn.Module, names: Iterable[str], outputs: Mapping[str, Tensor], image: Tensor
) -> dict[str, tuple[FeatureSpace, Tensor]]:
    """Return the layers that lie on a grid of more than one cell: their spaces, and their outputs as rasters.

    Args:
        model: the network.
        names: the layers in question.
        outputs: their outputs for ``image``, by name; a layer without one is left out.
        image: ``[1, C, H, W]``.

    Returns:
        By name, in the order of ``names``, a feature space and a raster ``[1, D, h, w]``.
    """
    found: dict[str, tuple[FeatureSpace, Tensor]] = {}
    for name in names:
        try:
            space = resolve_layer(model, name, image=image)
            cells = as_raster(outputs[name], space, (image.shape[2], image.shape[3]))[0]
        except (KeyError, ValueError):  # of another kind, or on no grid
            continue
        if cells.dim() == 4 and cells[0, 0].numel() > 1:
            found[name] = (space, cells)
    return found
