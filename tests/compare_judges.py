"""Models to judge the explanations of ``cli_factory``'s."""

from __future__ import annotations

import torch
from cli_factory import NAMES, Colours, preprocess
from torch import nn

from xai_align.hookspecs import LoadedModel


class Halved(nn.Module):
    """Takes images of 8 x 8 pixels in [-1, 1]; logits are half as large."""

    def __init__(self):
        super().__init__()
        self.colours = Colours()

    def forward(self, x):
        assert x.shape[-2:] == (8, 8)
        return self.colours(x / 2 + 0.5) / 2


def halved():
    def twice_as_large(image):
        return preprocess(image).repeat_interleave(2, 1).repeat_interleave(2, 2) * 2 - 1

    half = (0.5, 0.5, 0.5)
    return LoadedModel(model=Halved().eval(), preprocess=twice_as_large, class_names=NAMES, mean=half, std=half)


def other_classes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    with torch.no_grad():
        model[1].weight.fill_(0.1)
    return LoadedModel(model=model.eval(), preprocess=preprocess)
