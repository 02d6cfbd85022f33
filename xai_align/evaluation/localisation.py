"""Localisation: maps compared with ground-truth masks of the object.

Every measure gives one value per image, ``[N]``; NaN where it is not defined (documented at each),
so that ``torch.nanmean`` is its average over a data set. Maps are ``[N, H, W]``,
``[N, 1, H, W]`` or input-shaped ``[N, C, H, W]`` (channels are summed); masks are boolean,
``[N, H, W]``, True on the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xai_align._tools.checks import check_finite, check_number
from xai_align._tools.counted import counted
from xai_align.evaluation.boxes import boxes_to_masks
from xai_align.evaluation.controls import CentreGaussianAttribution

#: Thresholds tried for PiNet's detection scores.
DETECTION_THRESHOLDS: tuple[float, ...] = tuple(torch.logspace(-4, 0, 100, dtype=torch.float64).tolist())
#: Thresholds tried for the intersection over union, as shares of a map's maximum.
IOU_THRESHOLDS: tuple[float, ...] = tuple(step / 100 for step in range(100))


def pointing_game(attributions: Tensor, masks: Tensor, *, tolerance: int = 15) -> Tensor:
    """Return 1 where the map's maximum lies on the object, or within ``tolerance`` pixels of it, else 0; ``[N]``.

    Zhang et al. 2016 (Excitation Backprop) use 15 pixels at the image's original size; distances are
    Euclidean. On smaller images 15 pixels is a larger share: keep it in mind when you compare with published
    figures. If several pixels share the maximum, the value is the share of them that hits, so a constant map
    scores as much as a random point on average. NaN for an empty mask.

    Args:
        attributions: maps; see the module docstring for shapes.
        masks: ``[N, H, W]``, bool.
        tolerance: in pixels; 0: only the object itself.

    Raises:
        ValueError: shapes don't match, maps are not finite, the tolerance is negative.
        TypeError: masks are not boolean.

    Example::

        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[:, 8:24, 8:24] = True
        pointing_game(images.abs(), masks, tolerance=2)  # [2], 1: hit
    """
    check_number("tolerance", tolerance)
    maps, masks = _maps(attributions, masks)
    at_maximum = maps == maps.amax((1, 2), keepdim=True)
    hits = (at_maximum & _within(masks, int(tolerance))).sum((1, 2))
    return _where(masks.any(2).any(1), hits / at_maximum.sum((1, 2)).double())


def positive_mass(attributions: Tensor, masks: Tensor | None = None, *, boxes: Sequence[Any] | None = None) -> Tensor:
    """Compute the share of positive attribution on the object: ``sum relu(A) M / sum relu(A)``; ``[N]``.

    Attribution localisation of Kohlbrenner et al. 2020, the energy-based pointing game of Wang et al. 2020
    (Score-CAM). Higher is better, and a large object is easy: compare with :func:`area_share`, the value of a constant
    map, and :func:`centre_gaussian_mass`. NaN for an empty mask and for a map without positive values.

    Args:
        attributions: maps; see the module docstring for shapes.
        masks: ``[N, H, W]``, bool; or
        boxes: for each image ``[n, 4]``: x and y of the centre, width and height, as shares of the image's. The mask
            is their union, see :func:`boxes_to_masks`; for corners in pixels give
            ``masks=pixel_boxes_to_masks(...)``.

    Raises:
        ValueError: shapes don't match, maps are not finite, a box is invalid, or not exactly one of masks and boxes
            is given.
        TypeError: masks are not boolean.

    Example::

        positive_mass(torch.ones(2, 32, 32), boxes=[[[0.5, 0.5, 0.5, 0.5]]] * 2)  # [0.25, 0.25], the box's area
    """
    if (masks is None) == (boxes is None):
        raise ValueError("give either masks or boxes: where the object is")
    if boxes is not None:
        height, width = pixel_maps(attributions).shape[1:]
        if len(boxes) != len(attributions):
            raise ValueError(
                f"boxes for {counted(len(boxes), 'image')} were given, and {counted(len(attributions), 'map')}"
            )
        masks = boxes_to_masks(boxes, (height, width))
    assert masks is not None
    maps, masks = _maps(attributions, masks)
    positive = maps.clamp(min=0)
    total = positive.sum((1, 2))
    return _where(masks.any(2).any(1) & (total > 0), (positive * masks).sum((1, 2)) / total)


def energy_inside(attributions: Tensor, masks: Tensor) -> Tensor:
    """Compute :func:`positive_mass` under its older name.

    Example::

        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[:, 8:24, 8:24] = True
        energy_inside(torch.ones(2, 32, 32), masks)  # [0.25, 0.25], the object's share of the image
    """
    return positive_mass(attributions, masks)


def area_share(masks: Tensor) -> Tensor:
    """Compute the object's share of the image, ``[N]``: the :func:`positive_mass` of a constant map; NaN if empty.

    Raises:
        ValueError: the masks are not ``[N, H, W]``.
        TypeError: masks are not boolean.

    Example::

        area_share(boxes_to_masks([[[0.5, 0.5, 0.5, 0.5]]], (32, 32)))  # [0.25]
    """
    _check_masks(masks)
    return positive_mass(torch.ones(masks.shape, dtype=torch.float64, device=masks.device), masks)


def centre_gaussian_mass(masks: Tensor, *, sigma: float = 0.25) -> Tensor:
    """Compute the :func:`positive_mass` of a centred Gaussian, ``[N]``: where photographers put objects; NaN if empty.

    Args:
        masks: ``[N, H, W]``, bool.
        sigma: standard deviation as a share of the shorter side, as of the control ``centre_gaussian``.

    Raises:
        ValueError: the masks are not ``[N, H, W]``, or sigma is not positive.
        TypeError: masks are not boolean.

    Example::

        centre_gaussian_mass(boxes_to_masks([[[0.5, 0.5, 0.5, 0.5]]], (32, 32)))  # [0.48], more than its area
    """
    _check_masks(masks)
    blank = torch.zeros(masks.shape, dtype=torch.float64, device=masks.device)
    return positive_mass(CentreGaussianAttribution(sigma=sigma).attribute(blank[:, None]), masks)


def iou_at_threshold(attributions: Tensor, masks: Tensor, *, threshold: float) -> Tensor:
    """Compute the intersection over union of the object and ``A / max A > threshold``.

    Choose the threshold on other images, with :func:`best_threshold`. NaN for an empty mask and for
    a map without positive values.

    Raises:
        ValueError: shapes don't match, maps are not finite, the threshold is not in [0, 1).
        TypeError: masks are not boolean.

    Example::

        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[:, 8:24, 8:24] = True
        iou_at_threshold(masks.float(), masks, threshold=0.5)  # [1, 1], a perfect map
    """
    check_number("threshold", threshold, below=1)
    return _iou_at_thresholds(*_maps(attributions, masks), [threshold])[:, 0]


def best_threshold(attributions: Tensor, masks: Tensor, *, thresholds: Sequence[float] = IOU_THRESHOLDS) -> float:
    """Return the threshold with the highest mean IoU on these (validation) images; the first one on a tie.

    Raises:
        ValueError: shapes don't match, maps are not finite, or no image has a mask and positive values.
        TypeError: masks are not boolean.

    Example::

        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[:, 8:24, 8:24] = True
        threshold = best_threshold(images.abs(), masks)  # on validation images
        iou_at_threshold(images.abs(), masks, threshold=threshold)  # [2]
    """
    means = _iou_at_thresholds(*_maps(attributions, masks), thresholds).nanmean(0)
    if bool(means.isnan().any()):
        raise ValueError("no image has both an object and positive attribution; there is no best threshold")
    return float(thresholds[int(means.argmax())])


def iou_at_best_threshold(attributions: Tensor, masks: Tensor) -> Tensor:
    """Return the highest IoU over all thresholds of at least 0, for each image separately.

    The threshold is chosen with the mask, so this is an upper bound for thresholds that are chosen without it.
    NaN for an empty mask and for a map without positive values.

    Raises:
        ValueError: shapes don't match, or maps are not finite.
        TypeError: masks are not boolean.

    Example::

        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[:, 8:24, 8:24] = True
        iou_at_best_threshold(images.abs(), masks)  # [2], at most 1
    """
    maps, masks = _maps(attributions, masks)
    values = [_best_iou(row, mask) for row, mask in zip(maps.flatten(1), masks.flatten(1), strict=True)]
    return _where(_has_both(maps, masks), torch.stack(values))


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
        attributions: maps; see the module docstring for shapes. PiNet's paper uses the coefficients pi.
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
    maps, masks = _maps(attributions, masks)
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
    maps, masks = _maps(attributions, masks)
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


def _maps(attributions: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps ``[N, H, W]`` in float64, and masks on the same device."""
    maps = pixel_maps(attributions)
    _check_boolean(masks)
    if masks.shape != maps.shape:
        raise ValueError(f"the masks have shape {list(masks.shape)}, the maps {list(maps.shape)}; they must be equal")
    return maps, masks.to(maps.device)


def _check_masks(masks: Tensor) -> None:
    _check_boolean(masks)
    if masks.dim() != 3 or not masks.numel():
        raise ValueError(f"the masks have shape {list(masks.shape)}; give [N, H, W]")


def _check_boolean(masks: Tensor) -> None:
    if masks.dtype != torch.bool:
        raise TypeError(f"the masks are of {masks.dtype}; give booleans, True on the object")


def pixel_maps(attributions: Tensor) -> Tensor:
    """Return maps ``[N, H, W]`` or ``[N, C, H, W]`` as ``[N, H, W]``, float64, channels summed.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    if attributions.dim() not in (3, 4) or not attributions.numel():
        raise ValueError(f"the attributions have shape {list(attributions.shape)}; give [N, H, W] or [N, C, H, W]")
    check_finite("the attributions", attributions)
    maps = attributions.detach().double()
    return maps.sum(1) if maps.dim() == 4 else maps


def _where(defined: Tensor, values: Tensor) -> Tensor:
    return torch.where(defined, values, torch.nan)


def _within(masks: Tensor, tolerance: int) -> Tensor:
    """Return the pixels at most ``tolerance`` from the mask: dilation by a disc, one row of the disc at a time."""
    height = masks.shape[1]
    near = masks.clone()
    for step in range(min(tolerance, height - 1) + 1):
        reach = int((tolerance**2 - step**2) ** 0.5)
        wide = functional.max_pool2d(masks[:, None].float(), (1, 2 * reach + 1), 1, (0, reach))[:, 0].bool()
        near[:, step:] |= wide[:, : height - step]
        near[:, : height - step] |= wide[:, step:]
    return near


def _has_both(maps: Tensor, masks: Tensor) -> Tensor:
    return masks.any(2).any(1) & (maps.amax((1, 2)) > 0)


def _iou_at_thresholds(maps: Tensor, masks: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Return the IoU of each map at each threshold, ``[N, T]``."""
    t = torch.tensor(list(thresholds), dtype=maps.dtype, device=maps.device)
    rows = [_ious(row / row.max(), mask, t) for row, mask in zip(maps.flatten(1), masks.flatten(1), strict=True)]
    return _where(_has_both(maps, masks)[:, None], torch.stack(rows))


def _ious(scaled: Tensor, mask: Tensor, thresholds: Tensor) -> Tensor:
    """Return the IoU of one image at each threshold."""
    shared, shown = _above(scaled[mask], thresholds), _above(scaled, thresholds)
    return shared / (shown + mask.sum() - shared).double()


def _above(values: Tensor, thresholds: Tensor) -> Tensor:
    """Count the values above each threshold."""
    return len(values) - torch.searchsorted(values.sort().values, thresholds, right=True)


def _best_iou(row: Tensor, mask: Tensor) -> Tensor:
    """Return the best IoU of one image: pixels in descending order, cut only between different values above 0."""
    ordered, order = row.sort(descending=True)
    shared = mask[order].cumsum(0)
    shown = torch.arange(1, len(row) + 1, device=row.device)
    iou = shared / (shown + mask.sum() - shared).double()
    follows_other = torch.cat([ordered[1:] < ordered[:-1], ordered.new_ones(1, dtype=torch.bool)])
    return torch.where(follows_other & (ordered > 0), iou, 0.0).max()


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
    return _where(count > 0, (values * where).sum((1, 2)) / count)
