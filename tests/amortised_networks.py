"""A network whose evidence is known to the pixel, with a last feature map too coarse to show it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.shared.planted_squares import COLOURS, MEAN, STD, pictures
from xai_align.hookspecs import LoadedModel

#: Classes, and pixels along a cell of the last feature map: 2 x 2 cells for 32 pixels.
CLASSES, CELL = len(COLOURS), 16


def planted_network(gain: float = 240.0) -> nn.Sequential:
    """Return a network that counts pixels of each colour, by hand: the class is the square's colour.

    ``h_k = relu(x . c_k / |c_k|^2 - 0.6)`` for the colours ``c_k``, averaged over cells of 16 pixels, then over all.
    """
    colours = (torch.tensor(list(COLOURS.values())) - MEAN) / STD
    network = nn.Sequential(
        nn.Conv2d(3, CLASSES, 1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(CLASSES, CLASSES, CELL // 2, CELL // 2, groups=CLASSES),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CLASSES, CLASSES),
    ).eval()
    with torch.no_grad():
        network[0].weight.copy_((colours / colours.square().sum(1, keepdim=True))[..., None, None])
        network[0].bias.fill_(-0.6)
        network[3].weight.fill_(1 / (CELL // 2) ** 2)
        network[3].bias.zero_()
        network[7].weight.copy_(gain * torch.eye(CLASSES))
        network[7].bias.zero_()
    return network


def planted_images(count: int, seed: int) -> Tensor:
    return pictures(count, seed).images


def planted_square(label: int, count: int) -> Tensor:
    """Return squares of a class's colour, ``[count, 3, 8, 8]``."""
    colour = (torch.tensor(list(COLOURS.values())[label]) - MEAN) / STD
    return colour[None, :, None, None].expand(count, 3, 8, 8)


def planted_loaded() -> LoadedModel:
    """Return the network with its preprocessing, as a reference of the command line names it."""

    def preprocess(picture: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(picture.convert("RGB").resize((32, 32)))).permute(2, 0, 1) / 255
        return (pixels - MEAN) / STD

    return LoadedModel(model=planted_network(), preprocess=preprocess, mean=(MEAN,) * 3, std=(STD,) * 3)
