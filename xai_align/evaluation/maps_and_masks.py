"""Maps and masks of objects in one shape, for measures of localisation."""

from __future__ import annotations

import torch
from torch import Tensor

from xai_align._tools.checks import check_finite


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


def maps_and_masks(attributions: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps ``[N, H, W]`` in float64, and masks on the same device."""
    maps = pixel_maps(attributions)
    check_boolean(masks)
    if masks.shape != maps.shape:
        raise ValueError(f"the masks have shape {list(masks.shape)}, the maps {list(maps.shape)}; they must be equal")
    return maps, masks.to(maps.device)


def check_masks(masks: Tensor) -> None:
    """Raise unless the masks are boolean, ``[N, H, W]``."""
    check_boolean(masks)
    if masks.dim() != 3 or not masks.numel():
        raise ValueError(f"the masks have shape {list(masks.shape)}; give [N, H, W]")


def check_boolean(masks: Tensor) -> None:
    """Raise unless the masks are boolean."""
    if masks.dtype != torch.bool:
        raise TypeError(f"the masks are of {masks.dtype}; give booleans, True on the object")


def where_defined(defined: Tensor, values: Tensor) -> Tensor:
    """Return the values, NaN where they are not defined."""
    return torch.where(defined, values, torch.nan)
