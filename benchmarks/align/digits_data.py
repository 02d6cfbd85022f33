"""Digits on textures: pictures whose evidence is known to the pixel, with backgrounds that shift or predict the label.

A digit, black or white, lies somewhere on a coloured texture of 32 x 32 pixels. Digits are MNIST's (LeCun et al. 1998).
Three kinds of data:

* ``shift``: the background is independent of the label. Training, validation and in-domain test have a texture of
  per-pixel noise; the other domain has stripes, checks and blocks.
* ``hue``: noise whose hue is tied to the label in 90 % of the pictures, and to nothing in the other domain.
* ``decoy``: the noise of ``shift``, with a 4 x 4 patch in a random corner whose grey is tied to the label, and to
  nothing in the other domain (Decoy-MNIST of Ross, Hughes & Doshi-Velez 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIDE = 32
CLASSES = 10
TRAINING, VALIDATION, IN_DOMAIN = 3000, 500, 1000
#: Share of training pictures whose background is tied to the label, for the kinds that tie it.
TOLD = 0.9
#: Coverage above which a pixel belongs to the digit in the ground truth.
COVERED = 0.5
#: Normalisation to a mean of about 0 and a spread of about 1, so that a fill of 0 is a middle grey.
MEAN, STD = 0.5, 0.25
PATCH = 4

Numbers = NDArray[np.float64]
#: Function of labels ``[N]`` that returns backgrounds ``[N, 32, 32, 3]`` in [0, 1].
Background = Callable[[NDArray[np.int64], np.random.Generator], Numbers]


@dataclass(frozen=True)
class Pictures:
    """Pictures ``[N, 3, 32, 32]`` (normalised), labels ``[N]`` and the digits' places ``[N, 1, 32, 32]``, 0 or 1."""

    images: Tensor
    labels: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Domains:
    """Training, validation and test data."""

    training: Pictures
    validation: Pictures
    in_domain: Pictures
    out_of_domain: Pictures


@dataclass(frozen=True)
class Digits:
    """``[N, 28, 28]`` uint8 and labels, for training and for tests."""

    training: NDArray[np.uint8]
    training_labels: NDArray[np.int64]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


def load_digits(file: Path) -> Digits:
    """Load an npz with train_images, train_labels, test_images, test_labels."""
    with np.load(file) as found:
        return Digits(
            found["train_images"],
            found["train_labels"].astype(np.int64),
            found["test_images"],
            found["test_labels"].astype(np.int64),
        )


def domains(kind: str, digits: Digits, seed: int) -> Domains:
    """Pictures of a kind; the seed sets digits, positions, colours and textures. Test digits are never trained on."""
    seen, unseen = _BACKGROUNDS[kind]
    rng = np.random.default_rng([seed, 6])
    order = rng.permutation(len(digits.training_labels))
    training, validation = order[:TRAINING], order[TRAINING : TRAINING + VALIDATION]
    test = rng.permutation(len(digits.test_labels))

    def made(
        which: NDArray[np.int64], images: NDArray[np.uint8], labels: NDArray[np.int64], on: Background
    ) -> Pictures:
        return pictures(images[which], labels[which], on, rng)

    return Domains(
        training=made(training, digits.training, digits.training_labels, seen),
        validation=made(validation, digits.training, digits.training_labels, seen),
        in_domain=made(test[:IN_DOMAIN], digits.test, digits.test_labels, seen),
        out_of_domain=made(test, digits.test, digits.test_labels, unseen),
    )


def pictures(
    digits: NDArray[np.uint8], labels: NDArray[np.int64], background: Background, rng: np.random.Generator
) -> Pictures:
    """Return each digit, black or white, on its background: ``t (1 - a) + c a`` with the digit's ink ``a``."""
    ink = placed(digits, rng)
    white = rng.integers(0, 2, len(labels)).astype(float)
    a = ink[..., None]
    x = background(labels, rng) * (1 - a) + white[:, None, None, None] * a
    x = np.round(x * 255) / 255  # as a picture file would have it
    return Pictures(
        torch.from_numpy((x - MEAN) / STD).permute(0, 3, 1, 2).float().contiguous(),
        torch.from_numpy(labels.copy()),
        torch.from_numpy(ink > COVERED)[:, None].float(),
    )


def placed(digits: NDArray[np.uint8], rng: np.random.Generator) -> Numbers:
    """Return the digits shifted by up to the margin, ``[N, 32, 32]`` in [0, 1]."""
    margin = SIDE - digits.shape[1]
    down, right = rng.integers(0, margin + 1, (2, len(digits)))
    ink = np.zeros((len(digits), SIDE, SIDE))
    for one, digit, y, x in zip(ink, digits, down, right, strict=True):
        one[y : y + digit.shape[0], x : x + digit.shape[1]] = digit / 255
    return ink


def noise(labels: NDArray[np.int64], rng: np.random.Generator) -> Numbers:
    """One colour for each picture, and noise on every pixel and channel."""
    return _noisy(rng.uniform(0.15, 0.85, (len(labels), 3)), rng)


def unseen_textures(labels: NDArray[np.int64], rng: np.random.Generator) -> Numbers:
    """Stripes, checks and blocks, a third each."""
    found = np.empty((len(labels), SIDE, SIDE, 3))
    for part, texture in zip(np.array_split(np.arange(len(labels)), 3), (stripes, checks, blocks), strict=True):
        found[part] = texture(len(part), rng)
    return found


def stripes(count: int, rng: np.random.Generator) -> Numbers:
    """Stripes of two colours, in any direction, 2 to 4.5 pixels wide."""
    y, x = np.mgrid[:SIDE, :SIDE]
    angle, period, phase = (v[:, None, None] for v in rng.uniform([[0], [4], [0]], [[np.pi], [9], [1]], (3, count)))
    return _of_two_colours((np.cos(angle) * x + np.sin(angle) * y) / period + phase, rng)


def checks(count: int, rng: np.random.Generator) -> Numbers:
    """Checks of two colours, 3 to 6 pixels wide."""
    y, x = np.mgrid[:SIDE, :SIDE]
    width = rng.integers(3, 7, (count, 1, 1))
    right, down = rng.integers(0, 12, (2, count, 1, 1))
    return _of_two_colours(((x + right) // width + (y + down) // width) / 2, rng)


def blocks(count: int, rng: np.random.Generator) -> Numbers:
    """Squares of 4 to 8 pixels, each of its own colour."""
    y, x = np.mgrid[:SIDE, :SIDE]
    found = np.empty((count, SIDE, SIDE, 3))
    for one in found:
        width = rng.integers(4, 9)
        right, down = rng.integers(0, width, 2)
        colours = rng.uniform(0.15, 0.85, (SIDE // width + 2, SIDE // width + 2, 3))
        one[:] = colours[(y + down) // width, (x + right) // width]
    return found


def hue(told: float) -> Background:
    """Noise on a colour whose hue is the label's tenth of the circle in a share ``told`` of the pictures."""

    def background(labels: NDArray[np.int64], rng: np.random.Generator) -> Numbers:
        tenth = _told(labels, told, rng) + rng.uniform(-0.3, 0.3, len(labels))
        saturation, value = rng.uniform([[0.4], [0.35]], [[0.8], [0.8]], (2, len(labels)))
        return _noisy(_rgb(tenth / CLASSES % 1, saturation, value), rng)

    return background


def patch(told: float) -> Background:
    """Noise with a patch in a corner whose grey is the label's in a share ``told`` of the pictures."""

    def background(labels: NDArray[np.int64], rng: np.random.Generator) -> Numbers:
        x = noise(labels, rng)
        grey = _told(labels, told, rng) / (CLASSES - 1)
        for one, value, corner in zip(x, grey, rng.integers(0, 4, len(labels)), strict=True):
            rows = slice(0, PATCH) if corner < 2 else slice(-PATCH, None)
            columns = slice(0, PATCH) if corner % 2 else slice(-PATCH, None)
            one[rows, columns] = value
        return x

    return background


#: In training and in domain, and in the other domain.
_BACKGROUNDS: Mapping[str, tuple[Background, Background]] = {
    "shift": (noise, unseen_textures),
    "hue": (hue(TOLD), hue(0.0)),
    "decoy": (patch(TOLD), patch(0.0)),
}
KINDS = tuple(_BACKGROUNDS)


def _told(labels: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the labels in a share of the entries, random classes in the others."""
    return np.where(rng.random(len(labels)) < share, labels, rng.integers(0, CLASSES, len(labels)))


def _noisy(colours: Numbers, rng: np.random.Generator) -> Numbers:
    return np.clip(colours[:, None, None] + rng.uniform(-0.35, 0.35, (len(colours), SIDE, SIDE, 3)), 0, 1)


def _of_two_colours(turns: Numbers, rng: np.random.Generator) -> Numbers:
    """Return the first colour in the first half of each period, the second in the other half."""
    first, second = rng.uniform(0.15, 0.85, (2, len(turns), 1, 1, 3))
    return np.where((turns % 1 < 0.5)[..., None], first, second)


def _rgb(hue: Numbers, saturation: Numbers, value: Numbers) -> Numbers:
    """Return RGB ``[N, 3]`` of hue, saturation and value, each ``[N]`` in [0, 1]."""
    k = (np.array([5.0, 3.0, 1.0]) + hue[:, None] * 6) % 6
    return value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(k, 4 - k), 0, 1))
