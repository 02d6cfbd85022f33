"""One layer whose output is a grid of cells over the image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xai_align.hookspecs import FeatureSpace


@dataclass(frozen=True)
class GridLayer:
    """Layer whose output is a grid of cells.

    Attributes:
        space: the layer, with its layout and numbers of prefix and suffix tokens.
        rows: the number of rows of cells.
        columns: the number of columns of cells.
        depth: number of times that cells have exchanged evidence (convolution, attention, pooling) since the first
            layer that is not ``of_pixels``. Between two layers of one depth each cell depends on itself alone.
        reaches_output: whether evidence in the cells reaches the output, and not only that in tokens without a
            position.
        of_pixels: whether each cell depends on one pixel alone, as after a normalisation of the image.
    """

    space: FeatureSpace
    rows: int
    columns: int
    depth: int = 0
    reaches_output: bool = True
    of_pixels: bool = False

    @property
    def name(self) -> str:
        """The layer's dotted name."""
        assert isinstance(self.space.layer, str)
        return self.space.layer

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns

    @property
    def has_tokens(self) -> bool:
        """Whether the cells are tokens in a row."""
        return self.space.layout in ("NLC", "NCL")

    def cells(self, z: Tensor) -> Tensor:
        """Return the layer's output as ``[N, C, cells]`` in its own order, patch tokens alone."""
        if z.dim() == 4:
            return z.flatten(2) if self.space.layout == "NCHW" else z.flatten(1, 2).transpose(1, 2)
        tokens = z.transpose(1, 2) if self.space.layout == "NLC" else z
        return tokens[..., self.space.patches(tokens.shape[2])]

    @property
    def tokens(self) -> int:
        """Number of tokens, with those that have no position in the image."""
        return self.rows * self.columns + self.space.prefix_tokens + self.space.suffix_tokens
