"""Pictures of ToyShapes, drawn from the description of PiNet's data (arXiv 2601.04378).

A picture is a grid of 4 x 4 blocks of 20 x 20 pixels. Each block contains a triangle (1 in 16), a square, a
circle or nothing (5 in 16 each). The label asks whether there is any triangle; the mask shows where.
The background has one shade of grey, each shape another that differs from it by more than 50 of 255, lighter or darker.
So neither brightness nor the drawn area determines the label: only its form does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BLOCK, BLOCKS = 20, 4
#: Width and height of a picture.
SIZE = BLOCK * BLOCKS
KINDS = ("triangle", "square", "circle", "void")
#: 1 : 5 : 5 : 5.
PROBABILITIES = np.array([1, 5, 5, 5]) / 16
#: The last of the fifty greys, 256, does not fit in eight bits and is 0 there. The paper's data have it so: black
#: is twice as frequent as other greys, and a pixel of value 0 adds nothing where z is the picture itself.
GREYS = np.linspace(0, 256, 50).astype(int) % 256
DARKEST_BACKGROUND, LIGHTEST_BACKGROUND = 50, 199
LEAST_CONTRAST = 50
SMALLEST, LARGEST = 0.5, 0.8
HOLLOW = 0.25
#: The paper's test set: 1000 pictures of this seed.
TEST_SEED = 314 * 1618

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ToyShapes:
    """A set of pictures.

    Attributes:
        images: ``[N, 1, 80, 80]``, float32, in [0, 1].
        labels: ``[N]``, float32: 1 if a triangle is in the picture.
        masks: ``[N, 80, 80]``, bool: True on the drawn pixels of triangles; a hollow one's inside is False.
        triangles: ``[N]``, int64: their number.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    triangles: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> ToyShapes:
        return ToyShapes(self.images[rows], self.labels[rows], self.masks[rows], self.triangles[rows])


def toy_shapes(count: int, *, seed: int) -> ToyShapes:
    """Return ``count`` pictures; picture ``i`` has its own random generator, seeded with ``seed + i``.

    Seeds that are less than ``count`` apart share pictures.

    Raises:
        ValueError: fewer than one picture is requested, or the seed is negative.
    """
    if count < 1 or seed < 0:
        raise ValueError(f"count is {count} and seed {seed}; give at least one picture and a seed of 0 or more")
    drawn = [_picture(np.random.default_rng(seed + i)) for i in range(count)]
    masks = torch.from_numpy(np.stack([mask for _, mask, _ in drawn]))
    triangles = torch.tensor([number for _, _, number in drawn])
    images = torch.from_numpy(np.stack([image for image, _, _ in drawn])).float().div(255)[:, None]
    return ToyShapes(images, (triangles > 0).float(), masks, triangles)


def _picture(random: np.random.Generator) -> tuple[npt.NDArray[np.uint8], Mask, int]:
    """Return one picture, the mask of its triangles, and their number."""
    background = int(random.integers(DARKEST_BACKGROUND, LIGHTEST_BACKGROUND + 1))
    greys = GREYS[np.abs(np.linspace(0, 256, 50) - background) > LEAST_CONTRAST]
    image = np.full((SIZE, SIZE), background, dtype=np.uint8)
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    triangles = 0
    for row in range(0, SIZE, BLOCK):
        for column in range(0, SIZE, BLOCK):
            kind = KINDS[random.choice(len(KINDS), p=PROBABILITIES)]
            if kind == "void":
                continue
            block = slice(row, row + BLOCK), slice(column, column + BLOCK)
            drawn = _shape(kind, random)
            image[block][drawn] = random.choice(greys)
            if kind == "triangle":
                mask[block] = drawn
                triangles += 1
    return image, mask, triangles


def _shape(kind: str, random: np.random.Generator) -> Mask:
    """Return the drawn pixels of one block."""
    scale = float(random.uniform(SMALLEST, LARGEST))
    size = int(scale * BLOCK)
    if kind == "triangle":
        drawn = triangle(size, slope=float(random.uniform(1 - scale, 1.2 - scale)))
    elif kind == "square":
        drawn = square(size)
    else:
        drawn = circle(size)
    return drawn & ~inside(drawn, thickness=max(1, size // 5)) if random.random() < HOLLOW else drawn


def triangle(size: int, *, slope: float) -> Mask:
    """Return a triangle with its apex on top; each row's half-width is ``slope`` larger than that of the row above."""
    rows, columns = _block()
    down = rows - (BLOCK - size) // 2
    return (down >= 0) & (down < size) & (np.abs(columns - BLOCK // 2) <= down * slope)


def square(size: int) -> Mask:
    rows, columns = _block()
    first = (BLOCK - size) // 2
    return (rows >= first) & (rows < first + size) & (columns >= first) & (columns < first + size)


def circle(size: int) -> Mask:
    rows, columns = _block()
    return (rows - BLOCK // 2) ** 2 + (columns - BLOCK // 2) ** 2 <= (size // 2) ** 2


def inside(drawn: Mask, *, thickness: int) -> Mask:
    """Return the pixels that are at least ``thickness`` steps (up, down, left, right) away from the outside."""
    for _ in range(thickness):
        framed = np.pad(drawn, 1)
        drawn = drawn & framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return drawn


def _block() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    rows, columns = np.mgrid[:BLOCK, :BLOCK]
    return rows, columns
