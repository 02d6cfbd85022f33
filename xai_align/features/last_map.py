"""The last spatial feature map of a network that no plugin knows."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from xai_align._tools.drawn import noise_like
from xai_align.features.module_ends import module_ends, that_run_once
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
    ends = module_ends(model, [noise_like(image)], _is_map)
    maps = [name for name, is_map in that_run_once(ends).items() if is_map]
    return FeatureSpace(layer=maps[-1], layout="NCHW") if maps else None


def _is_map(output: Any) -> bool:
    return isinstance(output, Tensor) and output.dim() == 4 and len(output) == 1 and output[0, 0].numel() > 1
