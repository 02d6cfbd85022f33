"""torchvision's classifiers and transforms for pictures of other numbers of channels than three."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from xai_align.adapter_tools import restores_thread_state


def stem_of(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return the convolution that takes the image, and its name: the first one.

    Raises:
        ValueError: the model has none.
    """
    for name, one in model.named_modules():
        if isinstance(one, nn.Conv2d):
            return name, one
    raise ValueError(f"{type(model).__name__} has no convolution that takes images")


@restores_thread_state
def with_channels(model: nn.Module, channels: int) -> nn.Module:
    """Return the model for images with this many channels; its first convolution is replaced if necessary.

    As in timm (``adapt_input_conv``), the weights for one channel are the sum over red, green and blue; for others they
    are repeated, and scaled by 3 / channels.

    Raises:
        ValueError: the first convolution has groups.

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
    """Return the mean or std of each channel: the one given, or the weights' (averaged for other numbers of channels).

    Raises:
        ValueError: the given one has another number of channels.
    """
    values = usual if stated is None else stated
    if len(values) == channels:
        return list(values)
    if stated is not None and len(stated) != 1:
        raise ValueError(
            f"the {name} has {len(stated)} values, and the model takes {channels} channels; give one, or one for each"
        )
    return [sum(values) / len(values)] * channels
