"""Positions of a transformer's tokens in the image, from their number."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from xai_align.features.grid_layers import MOST_PREFIX_TOKENS, GivenGrid, grids
from xai_align.hookspecs import FeatureSpace


def token_space(model: nn.Module, image: Tensor, tokens: int) -> FeatureSpace | None:
    """Return a feature space ``[N, L, C]`` of ``L = tokens``: the number without a position, and the others' grid.

    It is that of the last layer of this many tokens through which all evidence passes, else the grid of the last layer
    with at most this many cells, the rest of the tokens being a prefix. None: there is no such layer, or the network
    moves cells to other positions.

    Args:
        model: the network; a copy in eval mode is run once on noise.
        image: ``[1, C, H, W]``, used only for shape, dtype and device.
        tokens: the number of tokens.

    Example::

        token_space(model, images[:1], 257).prefix_tokens  # 1: a class token, and 16 x 16 cells
    """
    layers, moved = grids(model, image)
    if moved:  # tokens behind the layers may have any order
        return None
    exact = [one for one in layers if one.space.layout == "NLC" and one.tokens == tokens]
    if exact:
        return replace(exact[-1].space, grid=GivenGrid(*exact[-1].grid))
    near = [one for one in layers if 0 <= tokens - one.rows * one.columns <= MOST_PREFIX_TOKENS]
    if not near:
        return None
    prefix, grid = tokens - near[-1].rows * near[-1].columns, GivenGrid(*near[-1].grid)
    return replace(near[-1].space, layout="NLC", prefix_tokens=prefix, suffix_tokens=0, grid=grid)
