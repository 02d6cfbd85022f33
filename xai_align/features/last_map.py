"""The last spatial feature map of a network that no plugin knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.drawn import noise_like
from xai_align._tools.replica import Replica
from xai_align.hookspecs import FeatureSpace


def last_map(model: nn.Module, image: Tensor) -> FeatureSpace | None:
    """Return the last module output ``[1, C, h, w]`` with more than one position, in the order in which modules end.

    It is ``layer4`` of a ResNet and ``features`` of a DenseNet: the input of global pooling, after the normalisation
    and activation that follow the last convolution. Modules that run more than once are ignored. The network is run
    on fixed noise, so that the result depends on the network and not on an image.

    Args:
        model: the network; a copy in eval mode is run.
        image: ``[1, C, H, W]``, used only for shape, dtype and device.

    Returns:
        The feature space; None if there is no such map.
    """
    runs: dict[str, int] = {}
    maps: list[str] = []

    def remember(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            if isinstance(output, Tensor) and output.dim() == 4 and len(output) == 1 and output[0, 0].numel() > 1:
                maps.append(name)

        return hook

    copy = Replica(model, evaluate=True).module
    for name, module in copy.named_modules():
        if name:
            module.register_forward_hook(remember(name))
    with torch.no_grad():
        copy(noise_like(image))
    once = [name for name in maps if runs[name] == 1]
    return FeatureSpace(layer=once[-1], layout="NCHW") if once else None
