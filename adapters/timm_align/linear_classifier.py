"""Backbone's own classifier as a linear map of its deepest feature map, where possible."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from timm_align.second_look import TimmEncoder, probing
from xai_align.features.spatial import layout_of
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.head_probe import probe_head
from xai_align.pinet.network.one_position import decompose_by_position


def linear_classifier(encoder: TimmEncoder) -> nn.Linear | None:
    """Return the backbone's classifier as a linear map of its deepest feature map, or None if it is not linear.

    It is linear where the logits are the mean over positions of ``W F_p + b``: then ``W`` is the head's output for
    one channel at a time, minus ``b``.
    """
    backbone, space = encoder.backbone, encoder.space
    if not encoder.ends_in_head_input:
        return None
    with probing(backbone, tuple(encoder.options["image_size"])) as image:
        final = backbone.forward_features(image)  # type: ignore[operator]
        if not isinstance(final, Tensor) or not probe_head(backbone, space, final).averages_positions:
            return None
        rows, bias = decompose_by_position(space, _one_channel_each(final, space, encoder.channels[-1]))
    classifier = nn.Linear(encoder.channels[-1], len(bias))
    with torch.no_grad():
        classifier.weight.copy_(rows[:, :, 0].T)
        classifier.bias.copy_(bias)
    return classifier


def _one_channel_each(like: Tensor, space: FeatureSpace, channels: int) -> Tensor:
    """Return ``[C, ...]``, features of one position, of which the i-th has a one in channel ``i``."""
    ones = torch.eye(channels, dtype=like.dtype, device=like.device)
    layout = layout_of(like, space)
    if layout in ("NCHW", "NHWC"):
        return ones[:, :, None, None] if layout == "NCHW" else ones[:, None, None, :]
    if layout == "NCL":
        return ones[:, :, None]
    return nn.functional.pad(ones[:, None, :], (0, 0, space.prefix_tokens, 0))
