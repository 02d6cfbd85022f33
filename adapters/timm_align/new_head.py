"""Timm models with a classifier for other classes."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def with_new_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Return a copy of a timm model with a new classifier for ``num_classes`` classes, on the model's device.

    Pooling and the modes of all modules are unchanged. The classifier's weights are initialised as timm does for
    training, from PyTorch's random state.

    Raises:
        ValueError: there are fewer than two classes, or the model's classifier can't be replaced.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; a classifier needs at least two classes")
    fresh: Any = copy.deepcopy(model)
    like = next(fresh.parameters())
    if not callable(getattr(fresh, "reset_classifier", None)):
        raise ValueError(f"{type(model).__name__} has no reset_classifier, so it can't be given another classifier")
    fresh.reset_classifier(num_classes)
    fresh.to(device=like.device, dtype=like.dtype)
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in fresh.named_modules():
        module.training = modes.get(name, model.training)
    return fresh
