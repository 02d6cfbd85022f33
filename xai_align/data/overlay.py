"""Overlay of a map on a grey photograph, as arrays.

Signed maps: red for, blue against, the photograph where the map is zero. Maps without a sign: violet, stronger for
higher values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xai_align._tools.sum_keeping import resize_keeping_sum

Array = NDArray[np.floating[Any]]

#: Ramps of red, green and blue for evidence for, evidence against, and maps without a sign. Two hues that colour-blind
#: readers can distinguish; light to dark, so that strength is visible in greyscale print.
FOR = np.array([(1.0, 0.78, 0.55), (0.96, 0.38, 0.18), (0.75, 0.05, 0.10)])
AGAINST = np.array([(0.60, 0.83, 0.98), (0.20, 0.52, 0.90), (0.08, 0.24, 0.66)])
RANKED = np.array([(0.85, 0.75, 0.93), (0.58, 0.33, 0.76), (0.33, 0.08, 0.47)])
#: Opacity at the end of the scale: the photograph is always visible.
STRONGEST = 0.78
_BLUR = 0.015  # smallest blur of the picture (not of the numbers), as a share of its side


def grey(picture: Array) -> Array:
    """Convert ``[H, W, 3]`` in [0, 1] to a pale grey ``[H, W, 3]`` on which colours stand out."""
    luminance = picture @ np.array([0.299, 0.587, 0.114])
    return np.repeat((0.25 + 0.7 * luminance)[..., None], 3, axis=-1)


def density(values: Tensor, size: Sequence[int]) -> Array:
    """Resize a map ``[h, w]`` to ``size`` pixels, per hundredth of the picture's area, smoothed for display.

    Coarse cells are blurred into each other, fine maps slightly; the mean of the
    result, times a hundred, is still the sum of ``values``.
    """
    pixels = resize_keeping_sum(values.detach().cpu().double(), size).numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # of maps near the end of float64, only the scale is lost
        rows, columns = (_blur(len(axis), _softness(axis)) for axis in (pixels, pixels.T))
        return np.asarray(rows @ pixels @ columns.T * (pixels.size / 100))


def limit_of(*shown: Array) -> float:
    """Return the end of a colour scale for all these densities: the 99.8 % quantile of the absolute values.

    1 if all are zero. With the maximum, single pixels of noisy maps would leave all others pale.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        largest = max(float(np.quantile(np.abs(values), 0.998)) for values in shown)
    return largest if largest > 0 and np.isfinite(largest) else 1.0


def blend(picture: Array, shown: Array, limit: float) -> Array:
    """Colour the grey photograph ``[H, W, 3]`` by the density ``[H, W]``."""
    strength = np.clip(np.abs(np.nan_to_num(shown)) / limit, 0, 1)
    colour = np.where((shown > 0)[..., None], _ramp(FOR, strength), _ramp(AGAINST, strength))
    alpha = (STRONGEST * strength**0.75)[..., None]
    return (1 - alpha) * grey(picture) + alpha * colour


def range_without_sign(shown: Array) -> tuple[float, float]:
    """Return the ends of the colour scale of a map without a sign: the 0.2 % and the 99.8 % quantile of its density."""
    finite = shown[np.isfinite(shown)]
    if not finite.size:
        return 0.0, 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = (float(np.quantile(finite, share)) for share in (0.002, 0.998))
    if not np.isfinite([low, high]).all():
        return 0.0, 1.0
    return (low, high) if high > low else (low, low + 1.0)


def blend_without_sign(picture: Array, shown: Array, low: float, high: float) -> Array:
    """Colour the grey photograph ``[H, W, 3]`` by the density ``[H, W]`` of a map without a sign, in one hue."""
    strength = np.clip((np.nan_to_num(shown, nan=low) - low) / (high - low), 0, 1)
    alpha = (STRONGEST * strength**0.75)[..., None]
    return (1 - alpha) * grey(picture) + alpha * _ramp(RANKED, strength)


def coloured(picture: Array, shown: Array, *, signed: bool) -> Array:
    """Colour the grey photograph by a density, on that map's own scale."""
    if signed:
        return blend(picture, shown, limit_of(shown))
    return blend_without_sign(picture, shown, *range_without_sign(shown))


def _ramp(stops: Array, strength: Array) -> Array:
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(strength, places, stops[:, channel]) for channel in range(3)], axis=-1)


def _softness(pixels: Array) -> float:
    """Return the blur width along the first axis: half a cell; the cells of a coarse map are runs of equal rows."""
    runs = 1 + int((np.diff(pixels, axis=0) != 0).any(axis=1).sum())
    return len(pixels) * max(_BLUR, min(0.5 / runs, 0.25))


@lru_cache(maxsize=4)  # the maps of a run have few sizes
def _blur(pixels: int, width: float) -> Array:
    """Return a Gaussian blur along one axis, reflected at the ends: it preserves sums and constant maps."""
    place = np.arange(pixels)
    here, there = place[:, None], place[None]
    images = [shift + turn for shift in (-2 * pixels, 0, 2 * pixels) for turn in (there, -1 - there)]
    weights = np.exp(-0.5 * ((here - np.stack(images)) / width) ** 2).sum(axis=0)
    weights = np.asarray(weights / weights.sum(axis=0))
    weights.setflags(write=False)
    return weights
