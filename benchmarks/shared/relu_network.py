"""ResNet-20 with plain ReLU and batch norm for pictures of PACS: its file, and the split of the pictures.

He et al. 2016 (arXiv 1512.03385, section 4.2): three stages of three residual blocks with 16, 32 and 64 channels. For
pictures of 96 px the first convolution has stride 2, so the stages have 48, 24 and 12 cells along a side.
`python -m benchmarks.fei.relu_network` trains it; the environment variable RESNET20 names the file.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from benchmarks.shared.pacs import Pacs, Split, stratified
from benchmarks.shared.small_networks import ResidualBlock
from xai_align.hookspecs import LoadedModel

SIZE = 96
#: Mean and standard deviation of each channel in [0, 1], so that pictures become -1 to 1.
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
#: Environment variable that names the file of weights.
VARIABLE = "RESNET20"
#: Shares of the parts for training, validation and test.
SPLIT_SEED = 0


def resnet20(classes: int) -> nn.Sequential:
    """Return the network with random weights, for ``[N, 3, 96, 96]``."""

    def stage(before: int, after: int) -> nn.Sequential:
        first = ResidualBlock(before, after, 1 if before == after else 2, nn.ReLU)
        return nn.Sequential(first, *(ResidualBlock(after, after, 1, nn.ReLU) for _ in range(2)))

    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    parts = {"stem": stem, "stage1": stage(16, 16), "stage2": stage(16, 32), "stage3": stage(32, 64)}
    head = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "head": nn.Linear(64, classes)}
    return nn.Sequential(OrderedDict[str, nn.Module](parts | head))


def load() -> LoadedModel:
    """Return the trained network.

    Raises:
        ValueError: the environment variable names no file.
    """
    file = os.environ.get(VARIABLE)
    if not file:
        raise ValueError(
            f"the environment variable {VARIABLE} names no file; train the network with "
            f"`python -m benchmarks.fei.relu_network --images DIR --out FILE`, then set {VARIABLE}=FILE"
        )
    model = resnet20(len(CLASSES))
    model.load_state_dict(load_file(Path(file)))
    preprocess = v2.Compose(
        [
            v2.Resize((SIZE, SIZE), antialias=True),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return LoadedModel(model=model.eval(), preprocess=preprocess, class_names=CLASSES, mean=MEAN, std=STD)


def small(pixels: Tensor) -> Tensor:
    """Return pictures ``[N, 3, H, W]`` in [0, 255] as ``[N, 3, 96, 96]`` in [0, 1]."""
    parts = [
        interpolate(some.float() / 255, (SIZE, SIZE), mode="bilinear", antialias=True) for some in pixels.split(128)
    ]
    return torch.cat(parts)


def parts_of(pacs: Pacs) -> Split:
    """Return the pictures for training, validation and test.

    Raises:
        ValueError: the pictures are of other classes.
    """
    if pacs.class_names != CLASSES:
        raise ValueError(f"the folders are named {pacs.class_names}; PACS has {CLASSES}")
    return stratified(pacs, SPLIT_SEED)
