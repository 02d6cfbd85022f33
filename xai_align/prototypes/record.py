"""Record of fitted prototypes: the matrix that mixes channels, and the parts of images that illustrate each channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from xai_align.prototypes.options import MatrixKind

#: Index of a sign in the tensors of a record.
_SIDES = {1: 0, -1: 1}


@dataclass(frozen=True, kw_only=True)
class Prototype:
    """Part of an image that illustrates a channel.

    Attributes:
        image: index of the image among those of the fit.
        name: its name.
        position: row and column of the layer's map.
        box: left, top, right, bottom of that cell, in pixels of the model's input.
        activation: sum of the channel over the image's map.

    Example::

        Prototype(image=3, name="dog/0003.jpg", position=(2, 4), box=(128, 64, 160, 96), activation=11.5)
    """

    image: int
    name: str
    position: tuple[int, int]
    box: tuple[float, float, float, float]
    activation: float


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """Matrix ``U`` that mixes the channels of a layer, and each mixed channel's prototypes.

    Attributes:
        matrix: ``U``, ``[D, D]``; the mixed map is ``U z[p]`` at every position.
        kind: "orthogonal" or "invertible".
        layer: the layer as it was given to the fit; None: the default.
        images: ``[2, D, m]``, indices of images; first those with the largest activation, then those with the lowest.
        positions: ``[2, D, m]``, the strongest positions in them, row by row.
        activations: ``[2, D, m]``.
        purity: ``[2, D]``: mean purity of each channel's prototypes on the images of the fit, without and with ``U``.
        names: names of all images.
        fingerprint: network, layer, channels, grid and size of the images that these prototypes belong to.
        output: which of the model's outputs are the logits.
        notes: remarks on the fit, one sentence without a full stop each.
        history: mean purity after each round.

    Example::

        found = fit_prototypes(model, list(images), "conv2", prototypes=2)
        found.of(0)[0].box  # where channel 0 is strongest in the image with most of it
        save_prototypes(found, "prototypes.safetensors")
    """

    matrix: Tensor = field(repr=False)
    kind: MatrixKind
    layer: str | None
    images: Tensor = field(repr=False)
    positions: Tensor = field(repr=False)
    activations: Tensor = field(repr=False)
    purity: Tensor = field(repr=False)
    names: Sequence[str] = field(repr=False)
    fingerprint: dict[str, Any]
    output: str | int | None = None
    notes: tuple[str, ...] = ()
    history: tuple[float, ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels, ``D``."""
        return len(self.matrix)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the layer's map."""
        rows, columns = self.fingerprint["grid"]
        return rows, columns

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of the images."""
        rows, columns = self.fingerprint["image_size"]
        return rows, columns

    @cached_property
    def inverse(self) -> Tensor:
        """``U^-1``, ``[D, D]`` in float64.

        Raises:
            ValueError: the matrix has none.
        """
        inverse, failed = torch.linalg.inv_ex(self.matrix.double())
        if failed or not bool(inverse.isfinite().all()):
            raise ValueError(
                f"the matrix of these prototypes, {list(self.matrix.shape)}, has no inverse, so channels can't be "
                "mixed by it and back; fit them again"
            )
        return inverse

    @cached_property
    def condition(self) -> float:
        """The condition number of ``U``; 1 for a rotation."""
        return float(torch.linalg.cond(self.matrix.double()))

    def of(self, channel: int, sign: int = 1) -> list[Prototype]:
        """Return the prototypes of a channel, the strongest first.

        Args:
            channel: its number, from 0.
            sign: 1: images with the largest activation; -1: with the lowest.

        Raises:
            ValueError: there is no such channel or sign.
        """
        if isinstance(channel, bool) or not isinstance(channel, Integral) or not 0 <= channel < self.channels:
            raise ValueError(f"there is no channel {channel}; the layer has {self.channels}, counted from 0")
        if sign not in _SIDES:
            raise ValueError(f"sign is {sign!r}; it is 1 (largest activations) or -1 (lowest)")
        side, columns = _SIDES[sign], self.grid[1]
        found = (values[side, channel].tolist() for values in (self.images, self.positions, self.activations))
        return [
            Prototype(
                image=image,
                name=self.names[image],
                position=divmod(position, columns),
                box=self.box(position),
                activation=activation,
            )
            for image, position, activation in zip(*found, strict=True)
        ]

    def box(self, position: int) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of a cell of the map, in pixels; cells are counted row by row."""
        (rows, columns), (height, width) = self.grid, self.image_size
        row, column = divmod(position, columns)
        high, wide = height / rows, width / columns
        return column * wide, row * high, (column + 1) * wide, (row + 1) * high
