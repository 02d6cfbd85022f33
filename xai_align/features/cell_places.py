"""Test that the receptive fields of a layer's cells are at the cells' own positions in the image.

The shape of an output does not tell which of its axes are rows and columns, whether tokens lie row by row, or whether
the network has cropped, padded, flipped or shifted the image before. The gradient of a cell in the image does: the
centre of its squares is the centre of the receptive field.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

import torch
from torch import Tensor

from xai_align._tools.drawn import noise_like
from xai_align._tools.thread_state import hides_interrupt
from xai_align.features.grid_layer import GridLayer
from xai_align.features.spatial import contribution_map

#: Largest distance, as a share of the image, of what a cell sees from its place, where neither cells nor what they see
#: is larger. The last cell of a grid that leaves out a remainder of the image is off by less.
NEAR = 0.04
#: The same, in cells.
CELLS = 0.75
#: The same, in pixels: the largest weight of a kernel may lie beside its middle, which is far in a small image.
PIXELS = 1.25
#: The same, in standard deviations of what the cell sees: it is cut off at a border, and convolutions without padding
#: see no border.
DEVIATIONS = 2.5
#: Standard deviation of places spread evenly over the image, and the largest distance in any case.
EVEN = 12**-0.5
#: The largest distance for tokens: a few tokens that see everything are close to the places of a small grid.
OF_TOKENS = 0.2
#: Number of cells from a corner on the diagonal that are tried.
INWARDS = 4
#: Standard deviation up to which what a cell sees is one place.
LOCAL = 0.1


class Places(Enum):
    """Relation of a layer's cells to the image."""

    #: They see their own places.
    OWN = 1
    #: They see their own places and so much around them that another place would not be noticed.
    AROUND = 2
    #: They see other places: the image was moved, or the cells have another order.
    OTHER = 3
    #: They see no place in particular: the axes are not those of a grid over the image.
    NONE = 4


def places_of(layer: GridLayer, z: Tensor, image: Tensor) -> Places:
    """Return the receptive fields of the cells in two opposite corners.

    Args:
        layer: the layer, with the grid that is tested.
        z: its output ``[1, ...]`` for the image, with its graph.
        image: ``[1, C, H, W]`` that requires grad.
    """
    size = (image.shape[-2], image.shape[-1])
    space = replace(layer.space, grid=lambda size, count: layer.grid)
    signs = noise_like(z)
    cells = contribution_map(z * signs, space, size)
    last, local = (layer.rows - 1, layer.columns - 1), True
    for corner in ((0, last[1]), (last[0], 0)):
        weight = None
        for step in range(max(1, min(INWARDS, *last))):  # until a cell depends on the image: units may be off
            row, column = (place + step if place == 0 else place - step for place in corner)
            weight = _what_is_seen(cells[0, row, column], image)
            if weight is not None:
                break
        if weight is None:
            return Places.OTHER if not layer.has_tokens and _in_a_border(cells[0], *corner, image) else Places.NONE
        seen = [_mean_and_deviation(weight.sum(1)), _mean_and_deviation(weight.sum(0))]
        places = [((row + 0.5) / layer.rows, layer.rows), ((column + 0.5) / layer.columns, layer.columns)]
        for (middle, deviation), (place, count), pixels in zip(seen, places, size, strict=True):
            allowed = max(NEAR, PIXELS / pixels, CELLS / count, min(DEVIATIONS * deviation, EVEN))
            if abs(middle - place) > min(allowed, OF_TOKENS if layer.has_tokens else 1):
                return Places.OTHER if max(deviation for _, deviation in seen) <= LOCAL else Places.NONE
            local &= deviation <= LOCAL
    return Places.OWN if local else Places.AROUND


def _in_a_border(cells: Tensor, row: int, column: int, image: Tensor) -> bool:
    """Return whether a corner of cells ``[h, w]`` that sees nothing lies in a border that the network adds.

    Then its whole row or column sees nothing; otherwise its units are off.
    """
    borders = (cells[row], cells[:, column])
    blank = any(_what_is_seen(border.sum(), image) is None for border in borders)
    return blank and _what_is_seen(cells.sum(), image) is not None


def _what_is_seen(cell: Tensor, image: Tensor) -> Tensor | None:
    """Return squares of the cell's gradient in the image, ``[H, W]``, up to a factor; None if there is no gradient."""
    try:
        (gradient,) = torch.autograd.grad(cell, image, retain_graph=True, materialize_grads=True)
    except Exception as error:  # operations of third parties may have no derivative
        if hides_interrupt(error):
            raise
        return None
    gradient = gradient[0].abs().cpu().double().sum(0)  # not every device has float64
    largest = gradient.max()
    return (gradient / largest).square() if bool(largest > 0) and bool(largest.isfinite()) else None


def _mean_and_deviation(weight: Tensor) -> tuple[float, float]:
    """Return mean and standard deviation of positions along an axis, as shares of its length."""
    weight = weight / weight.sum()
    place = (torch.arange(len(weight), device=weight.device) + 0.5) / len(weight)
    mean = (weight * place).sum()
    return float(mean), float((weight * (place - mean).square()).sum().sqrt())
