"""PiNet's meaningfulness: the detected share of the object (TDR), and the undetected share of the background (TAR).

Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378). Shapes of maps and masks are those of
:mod:`~xai_align.evaluation.localisation`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xai_align._tools.checks import check_number
from xai_align.evaluation.maps_and_masks import maps_and_masks, pixel_maps, where_defined

#: Thresholds tried for detection scores.
DETECTION_THRESHOLDS: tuple[float, ...] = tuple(torch.logspace(-4, 0, 100, dtype=torch.float64).tolist())


def detection_scale(attributions: Tensor) -> float:
    """Return the maximum over all maps, by which PiNet's scores are divided: ``pi~ = pi / max pi``.

    Raises:
        ValueError: no map has a positive value.
    """
    scale = float(pixel_maps(attributions).max())
    if not scale > 0:
        raise ValueError("no map has a positive value, so there is nothing to scale by")
    return scale


def true_detection_rate(attributions: Tensor, masks: Tensor, *, scale: float, threshold: float | None = None) -> Tensor:
    """Compute TDR, the detected share of the object: ``sum m M / sum M``; NaN without an object.

    PiNet's meaningfulness: ``m = relu(pi~)``, or ``m = 1[pi~ > t]`` with a threshold.

    Args:
        attributions: maps; ``[N, H, W]`` or ``[N, C, H, W]``. PiNet's paper uses the coefficients pi.
        masks: ``[N, H, W]``, bool; images without the object have an empty mask.
        scale: the maximum over the whole set, see :func:`detection_scale`.
        threshold: t; None for soft values.

    Raises:
        ValueError: shapes don't match, maps are not finite or larger than ``scale``.
        TypeError: masks are not boolean.

    Example::

        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[:, 8:24, 8:24] = True
        maps = images.sum(1)
        true_detection_rate(maps, masks, scale=float(maps.max()))  # [2], in [0, 1]
    """
    maps, masks = maps_and_masks(attributions, masks)
    return _mean_where(_detected(maps, scale, threshold), masks)


def true_abstraction_rate(
    attributions: Tensor, masks: Tensor, *, scale: float, threshold: float | None = None
) -> Tensor:
    """Compute TAR, the undetected share of the background: ``sum (1 - m)(1 - M) / sum (1 - M)``.

    NaN without background. Arguments and errors as for :func:`true_detection_rate`.

    Example::

        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[:, 8:24, 8:24] = True
        maps = images.sum(1)
        true_abstraction_rate(maps, masks, scale=float(maps.max()))  # [2], in [0, 1]
    """
    maps, masks = maps_and_masks(attributions, masks)
    return _mean_where(1 - _detected(maps, scale, threshold), ~masks)


def detection_score(attributions: Tensor, masks: Tensor, *, scale: float, threshold: float | None = None) -> float:
    """Compute ``mean TDR (images with the object) * mean TAR (all images)``, one number for the whole set.

    Arguments and errors as for :func:`true_detection_rate`; NaN if one of the two is defined for no image.

    Example::

        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[0, 8:24, 8:24] = True  # the second image has no object
        detection_score(masks.float(), masks, scale=1.0, threshold=0.5)  # 1.0, perfect maps
    """
    tdr = true_detection_rate(attributions, masks, scale=scale, threshold=threshold)
    tar = true_abstraction_rate(attributions, masks, scale=scale, threshold=threshold)
    return float(tdr.nanmean() * tar.nanmean())


def best_detection_threshold(
    attributions: Tensor, masks: Tensor, *, scale: float, thresholds: Sequence[float] = DETECTION_THRESHOLDS
) -> float:
    """Return the threshold with the highest :func:`detection_score` on these (validation) images; the first on a tie.

    Raises:
        ValueError: as for :func:`detection_score`, or the score is not defined on these images.
        TypeError: masks are not boolean.

    Example::

        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[0, 8:24, 8:24] = True
        threshold = best_detection_threshold(0.6 * masks.float(), masks, scale=1.0)  # on validation images
    """
    scores = [detection_score(attributions, masks, scale=scale, threshold=t) for t in thresholds]
    best = max(range(len(scores)), key=scores.__getitem__)
    if scores[best] != scores[best]:
        raise ValueError("the detection score needs an image with the object and one where it is not everywhere")
    return float(thresholds[best])


def _detected(maps: Tensor, scale: float, threshold: float | None) -> Tensor:
    """Return ``m``, ``[N, H, W]``: relu(pi~), or 1[pi~ > t]."""
    check_number("scale", scale, above=0)
    scaled = maps / scale
    if threshold is not None:
        return (scaled > threshold).double()
    if float(scaled.max()) > 1 + 1e-5:  # a float32 scale may be slightly too small
        raise ValueError(
            f"a map reaches {float(maps.max()):.4g}, above scale {scale:.4g}; give the maximum of all maps"
        )
    return scaled.clamp(0, 1)


def _mean_where(values: Tensor, where: Tensor) -> Tensor:
    count = where.sum((1, 2))
    return where_defined(count > 0, (values * where).sum((1, 2)) / count)
