"""Networks that are fine-tuned on PACS: EfficientNet-Lite0, and a vision transformer with its last two blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm import create_model
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.align.pretrained_masker import PretrainedMasker
from benchmarks.shared import small_vit
from benchmarks.shared.real_networks import lite0
from xai_align.align.saliency_of_readouts import Saliency
from xai_align.training.choices import Precision

#: Mean and standard deviation of each colour in pixels from 0 to 1.
Units = tuple[tuple[float, float, float], tuple[float, float, float]]
HALVES: Units = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET: Units = (small_vit.MEAN, small_vit.STD)
NAMES = ("lite0", "vit")


@dataclass(frozen=True)
class Backbone:
    """Pretrained network to be fine-tuned.

    Attributes:
        name: one of :data:`NAMES`.
        size: side of its images in pixels.
        units: of its images.
        create: returns it with a new head for a number of classes.
        last: returns its last parts and its head.
        learning_rate: of the classifier.
        saliency: the map that is aligned and judged.
        precision: of all forward passes but those of its maps.
    """

    name: str
    size: int
    units: Units
    create: Callable[[int], nn.Module]
    last: Callable[[nn.Module], Iterable[nn.Module]]
    learning_rate: float
    saliency: Saliency = "gradcam"
    precision: Precision = "no"

    def prepared(self, pixels: Tensor) -> Tensor:
        """Return uint8 images ``[N, 3, H, W]`` as ``[N, 3, size, size]`` in the network's units."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in self.units)
        size = (self.size, self.size)
        small = [
            interpolate((some / 255 - mean) / std, size, mode="bilinear", antialias=True) for some in pixels.split(128)
        ]
        return torch.cat(small).contiguous(memory_format=torch.channels_last)

    def masker(self) -> nn.Module:
        """Return an untrained masker of images in the network's units."""
        masker = PretrainedMasker().to(memory_format=torch.channels_last)
        return masker if self.units == HALVES else InOtherUnits(masker, self.units, HALVES)


class InOtherUnits(nn.Module):
    """Network of images in some units, for images in others.

    Args:
        network: takes images in units ``to``.
        given: units of the images that this module takes.
        to: units of the network.
    """

    def __init__(self, network: nn.Module, given: Units, to: Units) -> None:
        super().__init__()
        mean, std, to_mean, to_std = (torch.tensor(one).view(3, 1, 1) for one in (*given, *to))
        self.network = network
        self.register_buffer("scale", std / to_std)
        self.register_buffer("offset", (mean - to_mean) / to_std)

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's output for images ``[N, 3, H, W]``."""
        found: Tensor = self.network(images * self.scale + self.offset)
        return found


def _lite0(classes: int) -> nn.Module:
    model = lite0().model
    model.reset_classifier(classes)  # type: ignore[operator]
    return model.to(memory_format=torch.channels_last)


def _last_of_lite0(model: nn.Module) -> Iterable[nn.Module]:
    """Return everything from block 5 on, 2.7 of 3.4 million weights."""
    return (*model.blocks[5:], model.conv_head, model.bn2, model.classifier)  # type: ignore[index,misc]


#: Trained on 96 px images.
LITE0 = Backbone("lite0", 96, HALVES, _lite0, _last_of_lite0, 3e-4)


def _vit(weights: Path, classes: int) -> nn.Module:
    model = create_model("vit_small_patch14_dinov2", img_size=98, num_classes=classes)
    state = {name: value for name, value in load_file(weights).items() if not name.startswith("head.")}
    model.load_state_dict(checkpoint_filter_fn(state, model), strict=False)  # resamples the position embedding
    return model


def _last_of_vit(model: nn.Module) -> Iterable[nn.Module]:
    """Return the last two blocks, the norm and the head, 3.6 of 22 million weights."""
    return (*model.blocks[-2:], model.norm, model.head)  # type: ignore[index,misc]


def vit(weights: Path) -> Backbone:
    """Return the transformer of :mod:`benchmarks.shared.small_vit`, 7 x 7 patches, with the exact readout as map.

    Its head reads the class token, so there is no Grad-CAM at the head's input.
    """
    return Backbone("vit", 98, IMAGENET, partial(_vit, weights), _last_of_vit, 1e-4, "readout", "bf16")


def backbone(name: str, weights: Path | None = None) -> Backbone:
    """Return the network of this name; the transformer's weights are read from a file."""
    if name == LITE0.name:
        return LITE0
    if weights is None:
        raise SystemExit("give the file of the transformer's weights with --weights")
    return vit(weights)
