"""Networks with every kind of output, whose numbers can be worked out by hand, for the command line to load by name.

Their first number is four times the mean of red, less 1; the second is four times the mean of green, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from xai_align.hookspecs import LoadedModel


class Colours(nn.Module):
    def __init__(self, outputs: int, wrap=lambda logits: logits, bias: float = -1.0, sign: float = 1.0) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 3, 1, bias=False)
        self.judge = nn.Linear(3, outputs)
        self.wrap = wrap
        with torch.no_grad():
            self.look.weight.copy_(torch.eye(3)[:, :, None, None])
            self.judge.weight.copy_(sign * 4 * torch.eye(3)[:outputs])
            self.judge.bias.copy_(torch.tensor([bias, 0.0, 0.0])[:outputs])

    def forward(self, x):
        return self.wrap(self.judge(self.look(x).mean((2, 3))))


def preprocess(image):
    small = image.resize((8, 8), Image.Resampling.NEAREST)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).permute(2, 0, 1)


def loaded(outputs, wrap=lambda logits: logits, bias=-1.0, sign=1.0, **more):
    return LoadedModel(model=Colours(outputs, wrap, bias, sign).eval(), preprocess=preprocess, **more)


def sick():
    return loaded(1, class_names=("healthy", "sick"))


def one_output():
    return loaded(1)


def age():
    return loaded(1, bias=30.0, output_kind="regression", unit="years")


def falling():
    """A regression whose answer falls with red."""
    return loaded(1, bias=30.0, sign=-1.0, output_kind="regression")


def labels():
    return loaded(3, class_names=("red", "green", "blue"), output_kind="multi-label")


def classes():
    return loaded(3)


def sigmoid():
    return loaded(1, lambda z: z.sigmoid(), class_names=("healthy", "sick"))


def softmax():
    return loaded(3, lambda z: {"logits": z[:, None].softmax(-1).squeeze(1)})


def log_softmax():
    return loaded(3, lambda z: z.log_softmax(1))


def squeezed():
    return loaded(1, lambda z: z.squeeze(1), class_names=("healthy", "sick"))


def squeezed_age():
    return loaded(
        1, lambda z: {"out": [z.squeeze(1)]}, bias=30.0, output_field="out.0", output_kind="regression", unit="years"
    )


def two_numbers():
    return loaded(2, output_kind="regression", class_names=("age", "weight"))


class Pair(NamedTuple):
    features: torch.Tensor
    logits: torch.Tensor


@dataclass
class Output:
    loss: None
    logits: torch.Tensor


def in_dict():
    return loaded(3, lambda z: {"logits": z, "features": z * 2})


def in_only_dict():
    return loaded(3, lambda z: {"out": z, "steps": 3})


def in_tuple():
    return loaded(3, lambda z: (z,))


def in_named_tuple():
    return loaded(3, lambda z: Pair(features=z * 2, logits=z))


def in_record():
    return loaded(3, lambda z: Output(None, z))


def in_field():
    return loaded(3, lambda z: {"scores": z, "features": z * 2}, output_field="scores")


def nested():
    return loaded(3, lambda z: {"out": (Output(None, z), {"logits": z * 2}), "state": {"a.b": z * 3}})


def ambiguous():
    return loaded(3, lambda z: (z, z * 2))


def dense():
    return loaded(3, lambda z: z[:, :, None, None].expand(-1, -1, 4, 4))


def random():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def sized(img_size=(8, 8)):
    model = Colours(3).eval()
    return LoadedModel(
        model=model, preprocess=lambda image: preprocess(image.resize(img_size[::-1]))[..., : img_size[1]]
    )


def half_red(folder, name="half.png"):
    """Red on the left, black on the right: the mean of red is 0.5."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8, 0] = 255
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)
    return folder / name
