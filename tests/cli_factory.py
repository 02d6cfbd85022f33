"""A network whose every number can be worked out by hand, for the command line to load by name.

It measures colours: a class's logit is four times the mean of a channel, plus a
bias; the last class is constant. Images become 4 x 4 pixels in [0, 1].
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from xai_align.hookspecs import LoadedModel

BIASES = (0.5, 0.0, -0.25, -1.0)
NAMES = ("red, crimson", "green", "blue", "light blue, sky blue")


class Colours(nn.Module):
    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(3, 3, 1, bias=False)
        self.judge = nn.Linear(3, 4)
        with torch.no_grad():
            self.look.weight.copy_(torch.eye(3)[:, :, None, None])
            self.judge.weight.copy_(torch.cat([4 * torch.eye(3), torch.zeros(1, 3)]))
            self.judge.bias.copy_(torch.tensor(BIASES))

    def forward(self, x):
        return self.judge(self.look(x).mean((2, 3)))


def preprocess(image):
    small = image.resize((4, 4), Image.Resampling.NEAREST)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).permute(2, 0, 1)


def load():
    return LoadedModel(model=Colours().eval(), preprocess=preprocess, class_names=NAMES)


def unnamed():
    return LoadedModel(model=Colours().eval(), preprocess=preprocess)


def cancelling():
    """Red counts 100 for red and blue 100 against it: 50 for and 50 against, with a logit of 0.5."""
    model = Colours().eval()
    with torch.no_grad():
        model.judge.weight[0] = torch.tensor([100.0, 0.0, -100.0])
    return LoadedModel(model=model, preprocess=preprocess, class_names=NAMES)


def picky():
    """Its preprocessing refuses what is not square."""

    def squares_only(image):
        if image.width != image.height:
            raise RuntimeError("not a square")
        return preprocess(image)

    return LoadedModel(model=Colours().eval(), preprocess=squares_only, class_names=NAMES)


def half_red_half_blue():
    """``[1, 3, 4, 4]``: red on the left, blue on the right. Logits: 2.5, 0, 1.75, -1."""
    x = torch.zeros(1, 3, 4, 4)
    x[:, 0, :, :2] = 1
    x[:, 2, :, 2:] = 1
    return x


def save_half_red_half_blue(path):
    pixels = (half_red_half_blue()[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels).resize((16, 16), Image.Resampling.NEAREST).save(path)
    return path


def grey():
    """A network for one channel, with a preprocessing that gives three."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return LoadedModel(model=model.append(nn.Linear(8, 4)).eval(), preprocess=preprocess)


def diverged():
    """Weights that hold NaN."""
    loaded = unnamed()
    with torch.no_grad():
        loaded.model.judge.weight[0] = torch.nan
    return loaded


class Keyless(Colours):
    def forward(self, x):
        return {"main": super().forward(x)}["logits"]


def keyless():
    """Its forward pass raises a KeyError."""
    return LoadedModel(model=Keyless().eval(), preprocess=preprocess)


def unprepared():
    """Its preprocessing has two means for three channels."""

    def normalised(image):
        return (preprocess(image) - torch.zeros(2, 1, 1)) / torch.ones(2, 1, 1)

    return LoadedModel(model=Colours().eval(), preprocess=normalised)


def _backbone(**options):
    import timm

    return timm.create_model("test_resnet", num_classes=3, **options).eval()


class KeylessWhenSmall(nn.Module):
    def forward(self, x):
        return x if len(x[0, 0]) > 8 else {}["logits"]


def grey_backbone():
    """timm's network for one channel, with a preprocessing that gives three."""
    return LoadedModel(model=_backbone(in_chans=1), preprocess=preprocess)


def keyless_backbone():
    """A network of timm that raises a KeyError for small images, such as those that its preprocessing gives."""
    model = _backbone()
    model.maxpool = nn.Sequential(model.maxpool, KeylessWhenSmall())
    return LoadedModel(model=model, preprocess=lambda image: preprocess(image).repeat(1, 8, 8))


def unprepared_backbone():
    """A network of timm, with a preprocessing that has two means for three channels."""
    return LoadedModel(model=_backbone(), preprocess=unprepared().preprocess)
