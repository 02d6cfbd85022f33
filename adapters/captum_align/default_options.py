"""Defaults for options that Captum requires, fitted to the inputs: baselines, windows, patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xai_align.evaluation.salient_regions import grid_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

#: An occlusion window is this fraction of each side of an image; its stride is half its size.
WINDOWS_PER_SIDE = 8
#: Number of ablated patches along each side of an image.
PATCHES_PER_SIDE = 8
#: Captum's default of 5 gives mostly noise.
SHAP_SAMPLES = 20


def nothing(inputs: tuple[Tensor, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Return no options beyond Captum's own defaults."""
    return {}


def zero_distribution(inputs: tuple[Tensor, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Return the default of gradient SHAP, a distribution of one baseline, zeros."""
    zeros = tuple(torch.zeros_like(x[:1], requires_grad=False) for x in inputs)
    return {"baselines": zeros if len(zeros) > 1 else zeros[0], "n_samples": SHAP_SAMPLES}


def sliding_windows(inputs: tuple[Tensor, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Return the default of occlusion, half-overlapping windows over all channels, unless windows are given."""
    if "sliding_window_shapes" in given:
        return {}
    windows = tuple(window_shape(x.shape[1:]) for x in inputs)
    strides = tuple(_strides(window, x.shape[1:]) for window, x in zip(windows, inputs, strict=True))
    one = len(inputs) == 1
    return {
        "sliding_window_shapes": windows[0] if one else windows,
        "strides": strides[0] if one else strides,
    }


def patch_masks(inputs: tuple[Tensor, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Return the default of feature ablation, a grid of patches on images, single features elsewhere.

    Several inputs share no feature number, because equal numbers would be ablated together.
    """
    masks: list[Tensor] = []
    start = 0
    for x in inputs:
        masks.append(feature_mask(x.shape[1:], start).to(x.device))
        start = int(masks[-1].max()) + 1
    return {"feature_mask": masks[0] if len(masks) == 1 else tuple(masks)}


def window_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the window for one example: all channels of an image ``(C, H, W)``, a fraction of every other axis."""
    parts = tuple(max(1, size // WINDOWS_PER_SIDE) for size in shape)
    return (shape[0], *parts[1:]) if len(shape) == 3 else parts


def feature_mask(shape: Sequence[int], start: int = 0, patches: int = PATCHES_PER_SIDE) -> Tensor:
    """Return ``[1, *shape]``, integers from ``start``: the feature of each entry of one example."""
    if len(shape) != 3:
        return start + torch.arange(torch.Size(shape).numel()).reshape(1, *shape)
    height, width = shape[1:]
    return (start + grid_labels(height, width, patches)).expand(1, *shape)


def _strides(window: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Return half a window per axis, and a whole one where it covers the axis."""
    return tuple(part if part == size else max(1, part // 2) for part, size in zip(window, shape, strict=True))


#: Number of images on the path from the baseline that are run at once.
PATH_AT_ONCE = 32


def path_in_pieces(inputs: tuple[Tensor, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Limit the batch size along the path, because fifty steps of every example at once need too much memory."""
    return {"internal_batch_size": max(PATH_AT_ONCE, len(inputs[0]))}
