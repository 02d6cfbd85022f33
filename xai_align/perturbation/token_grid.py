"""Grid of tokens that a network keeps, and the positions of the tokens in the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from xai_align._tools.thread_state import hides_interrupt, restores_thread_state
from xai_align.features.first_example import first_example
from xai_align.features.grid_layers import floating_parts, grids, token_spaces
from xai_align.features.module_ends import module_ends
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.default_layers import has_one_grid


@dataclass(frozen=True)
class TokenGrid:
    """Grid of the patch tokens of a network.

    Attributes:
        rows: the number of rows of patches.
        columns: the number of columns of patches.
        spaces: for each number of tokens that a sequence may have, where the patches are in it.
        entry: the last layer before tokens are mixed, whose output is the sequence ``[N, L, C]``; None: there
            is no such layer.
    """

    rows: int
    columns: int
    spaces: Mapping[int, FeatureSpace]
    entry: str | None

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self.rows * self.columns

    def of_pixels(self, values: Tensor) -> Tensor:
        """Return the mean over each patch of values ``[N, 1, H, W]``, ``[N, patches]``, row by row."""
        height, width = values.shape[2:]
        if height % self.rows == 0 and width % self.columns == 0:
            return adaptive_avg_pool2d(values, (self.rows, self.columns)).flatten(1)
        # a pixel belongs to one patch; adaptive pooling counts those at a border twice
        row, column = (_members(values, *sizes) for sizes in ((height, self.rows), (width, self.columns)))
        total = row @ values[:, 0].double() @ column.transpose(0, 1)
        return (total / (row.sum(1)[:, None] * column.sum(1))).to(values.dtype).flatten(1)

    def of_tokens(self, patches: Tensor, count: int) -> Tensor | None:
        """Return values of ``count`` tokens in the network's order, 1 for those without a position.

        Args:
            patches: values of the patches ``[N, patches]``, row by row.
            count: number of tokens of the sequence.

        Returns:
            ``[N, count]``; None: a sequence of that many tokens is not on this grid.
        """
        space = self.spaces.get(count)
        if space is None:
            return None
        if space.to_raster is not None:
            number = torch.arange(self.patches, device=patches.device)
            patches = patches[:, space.to_raster(number[None])[0].argsort()]
        where = space.patches(count)
        before, after = patches.new_ones(len(patches), where.start), patches.new_ones(len(patches), count - where.stop)
        return torch.cat([before, patches, after], 1)


@restores_thread_state
def _has_sequences(model: nn.Module, image: Tensor, extra: Sequence[Any]) -> bool:
    """Return whether a module of the network returns ``[1, L, C]``."""
    inputs = [image[:1].detach(), *first_example(extra, len(image))]
    try:
        ends = module_ends(
            model, inputs, lambda output: any(part.dim() == 3 and len(part) == 1 for part in floating_parts(output))
        )
    except Exception as error:  # it takes no single example
        if hides_interrupt(error):
            raise
        return False
    return any(found for _, found in ends)


def _members(values: Tensor, pixels: int, count: int) -> Tensor:
    """Return 1 where a row (or column) of pixels belongs to one of patches, ``[count, pixels]``."""
    of = torch.arange(pixels, device=values.device) * count // pixels
    return (of == torch.arange(count, device=values.device)[:, None]).double()


def token_grid(model: nn.Module, image: Tensor, extra: Sequence[Any] = ()) -> TokenGrid | None:
    """Return the grid of a network that keeps one grid of tokens through most of its depth, as vision transformers do.

    None: the network has another structure, e.g. of convolutions or of several resolutions, or it moves cells.

    Args:
        model: the network; copies in eval mode are run on one image.
        image: ``[N, C, H, W]``, used only for shape, dtype and device.
        extra: further arguments of the model.

    Example::

        token_grid(model, images[:1])  # None: `model` is a network of convolutions
    """
    if not _has_sequences(model, image, extra):  # in a tenth of the time
        return None
    layers, moved = grids(model, image, extra=extra)
    if moved or not has_one_grid(layers):
        return None
    on_grid = [layer for layer in layers if layer.grid == layers[-1].grid]
    sequences = [layer for layer in on_grid if layer.space.layout == "NLC"]
    if not any(layer.has_tokens for layer in on_grid):
        return None
    first = min(layer.depth for layer in on_grid)
    entries = [layer.name for layer in sequences if layer.depth == first]
    rows, columns = layers[-1].grid
    return TokenGrid(rows, columns, token_spaces(on_grid), entries[-1] if entries else None)
