"""torchvision's models with a classifier for other classes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from torchvision_align.channels import stem_of
from xai_align.features.new_head import with_new_head

#: Heads of Inception and GoogLeNet that run in train mode only, where the model then returns several logits.
_OF_TRAINING = ("AuxLogits", "aux1", "aux2")
#: Rows and columns of images where the model doesn't say.
_SIDE = 224


def with_new_classifier(model: nn.Module, num_classes: int, image: Tensor | None = None) -> nn.Module:
    """Return a copy of a torchvision classifier with a new last layer, with PyTorch's initial weights.

    Auxiliary heads are left out, because in training they would add outputs to the classifier's.

    Args:
        model: a classifier of torchvision; it is not changed.
        num_classes: the number of logits.
        image: ``[1, C, H, W]``, an image that the model accepts; None: one of zeros.

    Raises:
        ValueError: there are fewer than two classes, or the model is not a classifier of whole images.

    Example::

        import torchvision

        with_new_classifier(torchvision.models.squeezenet1_1(), 3)(torch.rand(1, 3, 64, 64)).shape  # [1, 3]
    """
    if not type(model).__module__.startswith("torchvision.models.") or any(
        part in type(model).__module__ for part in (".segmentation", ".detection", ".video", ".optical_flow")
    ):
        raise ValueError(
            f"{type(model).__name__} is not a classifier of images, so it can't be given other classes; choose one of "
            "torchvision.models.list_models(module=torchvision.models)"
        )
    fresh: Any = copy.deepcopy(model)
    for name in _OF_TRAINING:
        if getattr(fresh, name, None) is not None:
            setattr(fresh, name, None)
            fresh.aux_logits = False
    if image is None:
        side = int(getattr(fresh, "image_size", _SIDE))
        image = torch.zeros(1, stem_of(fresh)[1].in_channels, side, side)
    return with_new_head(fresh, num_classes, image)
