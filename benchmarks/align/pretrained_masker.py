"""Masker on the frozen first stages of a pretrained network, for small sets of natural images.

    images ─ frozen stages ─ stride 4 ─────────────── + ─ smooth ─ logits ─ up ─ sigmoid
                          └─ stride 8 ────── + ─ up ──┘
                          └─ stride 16 ─ up ─┘

From a few hundred photographs, a masker trained from scratch learns little more than that objects are in the middle.
Three frozen stages of EfficientNet-Lite0 with ImageNet weights, and some 50,000 trained weights, find outlines in a
hundred steps of 16 photographs.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.shared.real_networks import lite0

#: Stages that are used, fine to coarse, and their channels.
STAGES = {"1": 24, "2": 40, "4": 112}


class PretrainedMasker(nn.Module):
    """Masker of images ``[N, 3, H, W]`` in EfficientNet-Lite0's units, with masks ``[N, 1, H, W]`` in [0, 1].

    Args:
        width: channels of the trained layers.
        start: approximate value of untrained masks.
    """

    def __init__(self, *, width: int = 48, start: float = 0.6) -> None:
        super().__init__()
        network = lite0().model.to(memory_format=torch.channels_last)
        self.stem, self.stages = (
            nn.Sequential(network.conv_stem, network.bn1),
            network.blocks[: max(map(int, STAGES)) + 1],
        )
        self.frozen = nn.ModuleList([self.stem, self.stages]).requires_grad_(False).eval()
        fine, middle, coarse = STAGES.values()
        self.from_fine, self.from_middle, self.from_coarse = (_convolution(n, width, 1) for n in (fine, middle, coarse))
        self.around, self.smooth = _convolution(width, width, 3), _convolution(width, width, 3)
        self.last = nn.Conv2d(width, 1, 1)
        nn.init.normal_(self.last.weight, std=0.02)
        nn.init.constant_(self.last.bias, log(start / (1 - start)))  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> PretrainedMasker:
        """Set the mode; the frozen stages keep their statistics."""
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the masks."""
        return self.logits(images).sigmoid()

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of the masks."""
        fine, middle, coarse = self.features(images)
        around = self.around(self.from_middle(middle) + _up(self.from_coarse(coarse), middle))
        return _up(self.last(self.smooth(self.from_fine(fine) + _up(around, fine))), images)

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of :data:`STAGES`."""
        z, found = self.stem(images), []
        for name, stage in self.stages.named_children():
            z = stage(z)
            found += [z] if name in STAGES else []
        return found


def _convolution(channels: int, to: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, to, size, padding=size // 2, bias=False), nn.GroupNorm(4, to), nn.ReLU(inplace=True)
    )


def _up(maps: Tensor, like: Tensor) -> Tensor:
    return interpolate(maps, like.shape[-2:], mode="bilinear", align_corners=False)
