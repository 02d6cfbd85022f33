"""Classifier of a backbone as a linear map of its deepest feature map, where possible."""

from __future__ import annotations

from typing import Any

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


def has_classifier(model: nn.Module) -> bool:
    """Return whether a model of timm ends in a classifier, including one that was added or removed by hand.

    ``model.num_classes`` does not change if the classifier is replaced without ``reset_classifier``.
    """
    get_classifier: Any = getattr(model, "get_classifier", None)
    if get_classifier is None:
        return getattr(model, "num_classes", None) != 0
    try:
        classifier = get_classifier()
    except AttributeError:  # the whole head, in which it was, has been replaced
        classifier = getattr(model, "head", None)
    if isinstance(classifier, nn.Identity):
        return False
    return isinstance(classifier, nn.Module) or getattr(model, "num_classes", None) != 0


#: What to say of a model without a classifier.
NO_CLASSIFIER = "has no classifier (num_classes is 0, or the classifier or its head was replaced by another module)"


def number_of_classes(encoder: TimmEncoder) -> int:
    """Return the number of the backbone's logits, counted in a pass; 0 if it has no classifier."""
    backbone = encoder.backbone
    if not has_classifier(backbone):
        return 0
    with probing(backbone, tuple(encoder.options["image_size"])) as image:
        logits = backbone(image)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        return int(getattr(backbone, "num_classes", 0))
    return int(logits.shape[1])


def _one_channel_each(like: Tensor, space: FeatureSpace, channels: int) -> Tensor:
    """Return ``[C, ...]``, features of one position, of which the i-th has a one in channel ``i``."""
    ones = torch.eye(channels, dtype=like.dtype, device=like.device)
    layout = layout_of(like, space)
    if layout in ("NCHW", "NHWC"):
        return ones[:, :, None, None] if layout == "NCHW" else ones[:, None, None, :]
    if layout == "NCL":
        return ones[:, :, None]
    return nn.functional.pad(ones[:, None, :], (0, 0, space.prefix_tokens, 0))
