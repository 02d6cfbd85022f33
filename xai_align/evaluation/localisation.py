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

from xai_align._tools.checks import check_number
from xai_align._tools.counted import counted
from xai_align.evaluation.boxes import boxes_to_masks
from xai_align.evaluation.controls import CentreGaussianAttribution
from xai_align.evaluation.maps_and_masks import check_masks, maps_and_masks, pixel_maps, where_defined


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
    maps, masks = maps_and_masks(attributions, masks)
    at_maximum = maps == maps.amax((1, 2), keepdim=True)
    hits = (at_maximum & _within(masks, int(tolerance))).sum((1, 2))
    return where_defined(masks.any(2).any(1), hits / at_maximum.sum((1, 2)).double())


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
    maps, masks = maps_and_masks(attributions, masks)
    positive = maps.clamp(min=0)
    total = positive.sum((1, 2))
    return where_defined(masks.any(2).any(1) & (total > 0), (positive * masks).sum((1, 2)) / total)


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
    check_masks(masks)
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
    check_masks(masks)
    blank = torch.zeros(masks.shape, dtype=torch.float64, device=masks.device)
    return positive_mass(CentreGaussianAttribution(sigma=sigma).attribute(blank[:, None]), masks)


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
