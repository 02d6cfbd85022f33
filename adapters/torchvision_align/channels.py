"""torchvision's classifiers and transforms for pictures of other numbers of channels than three."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def stem_of(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return the convolution that takes the image, and its name: the first one.

    Raises:
        ValueError: the model has none.
    """
    for name, one in model.named_modules():
        if isinstance(one, nn.Conv2d):
            return name, one
    raise ValueError(f"{type(model).__name__} has no convolution that takes images")


def with_channels(model: nn.Module, channels: int) -> nn.Module:
    """Return the model for images of so many channels; its first convolution is replaced if it takes others.

    As in timm (``adapt_input_conv``), the weights for one channel are the sum over red, green and blue; for others they
    are repeated, and scaled by 3 to their number.

    Raises:
        ValueError: the first convolution takes its channels in groups.

    Example::

        import torchvision

        with_channels(torchvision.models.squeezenet1_1(), 1)(torch.rand(1, 1, 64, 64)).shape  # [1, 1000]
    """
    name, old = stem_of(model)
    if old.in_channels == channels:
        return model
    if old.groups != 1:
        raise ValueError(f"{type(model).__name__} can't take {channels} channels: its first layer is in groups")
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    repeats = -(-channels // old.in_channels)
    repeated = old.weight.detach().repeat(1, repeats, 1, 1)[:, :channels] * (old.in_channels / channels)
    with torch.no_grad():
        new.weight.copy_(old.weight.sum(1, keepdim=True) if channels == 1 else repeated)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new.to(old.weight))
    if getattr(model, "transform_input", False):  # Inception's and GoogLeNet's scaling of red, green and blue
        model.transform_input = False  # type: ignore[assignment]
    return model


def for_channels(name: str, stated: Sequence[float] | None, usual: Sequence[float], channels: int) -> list[float]:
    """Return the mean or std of each channel: the one stated, or the weights', their mean for other channels.

    Raises:
        ValueError: the stated one is for another number of channels.
    """
    values = usual if stated is None else stated
    if len(values) == channels:
        return list(values)
    if stated is not None and len(stated) != 1:
        raise ValueError(
            f"the {name} has {len(stated)} values, and the model takes {channels} channels; give one, or one for each"
        )
    return [sum(values) / len(values)] * channels


class OfChannels:
    """A transform of torchvision's weights for a model with so many channels.

    Args:
        transform: the weights' own; it takes PIL images and tensors.
        channels: the channels of the model's input.
    """

    def __init__(self, transform: Any, channels: int) -> None:
        self.transform, self.channels = transform, channels

    def __call__(self, picture: Any) -> Tensor:
        """Return a PIL image, or an array ``[H, W, C]`` in [0, 1], as the model takes it, ``[C, H, W]``.

        Raises:
            ValueError: it has other channels than the model.
        """
        if isinstance(picture, np.ndarray):
            if picture.ndim == 3 and picture.shape[2] == self.channels:
                array = np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32)
                return self.transform(torch.from_numpy(array))
        elif self.channels in (1, 3):
            return self.transform(picture.convert("L") if self.channels == 1 else picture)
        found = picture.shape[-1] if isinstance(picture, np.ndarray) else len(picture.getbands())
        raise ValueError(
            f"the picture has {found} channels and the model takes {self.channels}: load the model with --in-chans "
            f"{found}, and weights for so many, or give pictures with {self.channels}"
        )
