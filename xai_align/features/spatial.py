"""Mapping of a feature space's axes to the image: grids and tokens."""

from __future__ import annotations

from math import gcd, log

from torch import Tensor

from xai_align.hookspecs import FeatureSpace, Layout


def contribution_map(contributions: Tensor, space: FeatureSpace, image_size: tuple[int, int]) -> Tensor:
    """Return contributions in the feature space's shape as a grid ``[N, h, w]``: channels summed, patches alone."""
    layout = layout_of(contributions, space)
    if layout == "NCHW":
        return contributions.sum(1)
    if layout == "NHWC":
        return contributions.sum(-1)
    tokens = contributions if layout == "NLC" else contributions.transpose(1, 2)
    return _tokens_on_grid(tokens[:, space.patches(tokens.shape[1])].sum(-1), space, image_size)


def on_grid(cells: Tensor, z: Tensor, space: FeatureSpace, image_size: tuple[int, int]) -> Tensor:
    """Reshape cells ``[N, K, P]``, one for each token or cell of ``z`` with a position, to maps ``[N, K, h, w]``."""
    layout = layout_of(z, space)
    if layout in ("NCHW", "NHWC"):
        return cells.unflatten(-1, z.shape[2:] if layout == "NCHW" else z.shape[1:3])
    return _tokens_on_grid(cells.flatten(0, 1), space, image_size).unflatten(0, cells.shape[:2])


def _tokens_on_grid(cells: Tensor, space: FeatureSpace, image_size: tuple[int, int]) -> Tensor:
    """Reshape ``[N, L]`` to ``[N, h, w]``."""
    rows, columns = token_grid(space, cells.shape[1], image_size)
    return (space.to_raster(cells) if space.to_raster else cells).reshape(len(cells), rows, columns)


def layout_of(z: Tensor, space: FeatureSpace) -> Layout:
    """Return the layout of a tensor of this space.

    Raises:
        ValueError: it has neither the axes of a map nor those of tokens.
    """
    if z.dim() not in (3, 4):
        raise ValueError(
            f"a feature space of shape {list(z.shape)} at '{space.layer}' has no position in an image; "
            "read its contributions as they are, or choose a layer with [N, C, H, W] or [N, L, C]"
        )
    if space.layout == "auto" or (len(space.layout) != z.dim()):
        return "NCHW" if z.dim() == 4 else "NLC"
    return space.layout


def prefix_part(contributions: Tensor, space: FeatureSpace) -> Tensor:
    """Return the sum of the contributions of prefix and suffix tokens, ``[N]``."""
    if not (space.prefix_tokens or space.suffix_tokens) or contributions.dim() != 3:
        return contributions.new_zeros(len(contributions))
    tokens = contributions if layout_of(contributions, space) == "NLC" else contributions.transpose(1, 2)
    patches = space.patches(tokens.shape[1])
    return tokens[:, : patches.start].flatten(1).sum(1) + tokens[:, patches.stop :].flatten(1).sum(1)


def token_grid(space: FeatureSpace, tokens: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of a grid of ``tokens`` patch tokens.

    Raises:
        ValueError: no grid of this many tokens has the image's proportions.
    """
    return (space.grid or proportional_grid)(image_size, tokens)


def proportional_grid(image_size: tuple[int, int], tokens: int) -> tuple[int, int]:
    """Return the rows and columns of a grid of ``tokens`` cells with the proportions of an image ``(H, W)``.

    Raises:
        ValueError: there is no such grid, or no token.
    """
    if tokens < 1:
        raise ValueError(f"a grid has 1 cell or more, and there are {tokens} tokens; give the layer's number of them")
    height, width = image_size
    unit = gcd(height, width)
    rows, columns = height // unit, width // unit
    scale = round((tokens / (rows * columns)) ** 0.5)
    if scale and rows * columns * scale * scale == tokens:
        return rows * scale, columns * scale
    candidates = [(rows, tokens // rows) for rows in range(1, tokens + 1) if tokens % rows == 0]
    rows, columns = min(candidates, key=lambda grid: abs(log(grid[0] * width / (grid[1] * height))))
    if not 0.75 < rows * width / (columns * height) < 1.33:
        raise ValueError(
            f"{tokens} tokens form no grid like an image of {height} x {width}; "
            "give FeatureSpace(grid=...), which returns rows and columns"
        )
    return rows, columns
