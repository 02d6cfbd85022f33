"""Intersection over union of the object and the part of a map above a threshold.

Shapes of maps and masks are those of :mod:`~xai_align.evaluation.localisation`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xai_align._tools.checks import check_number
from xai_align.evaluation.maps_and_masks import maps_and_masks, where_defined

#: Thresholds tried for the intersection over union, as shares of a map's maximum.
IOU_THRESHOLDS: tuple[float, ...] = tuple(step / 100 for step in range(100))


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
    return _iou_at_thresholds(*maps_and_masks(attributions, masks), [threshold])[:, 0]


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
    means = _iou_at_thresholds(*maps_and_masks(attributions, masks), thresholds).nanmean(0)
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
    maps, masks = maps_and_masks(attributions, masks)
    values = [_best_iou(row, mask) for row, mask in zip(maps.flatten(1), masks.flatten(1), strict=True)]
    return where_defined(_has_both(maps, masks), torch.stack(values))


def _has_both(maps: Tensor, masks: Tensor) -> Tensor:
    return masks.any(2).any(1) & (maps.amax((1, 2)) > 0)


def _iou_at_thresholds(maps: Tensor, masks: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Return the IoU of each map at each threshold, ``[N, T]``."""
    t = torch.tensor(list(thresholds), dtype=maps.dtype, device=maps.device)
    rows = [_ious(row / row.max(), mask, t) for row, mask in zip(maps.flatten(1), masks.flatten(1), strict=True)]
    return where_defined(_has_both(maps, masks)[:, None], torch.stack(rows))


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
