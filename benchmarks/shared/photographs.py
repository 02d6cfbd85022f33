"""Photographs of the FEI benchmarks for judging and for tuning, in every network's size and units.

Photographs that EfficientNet-Lite0 and SqueezeNet both classify correctly, in a random order of fixed seed: the first
48 are judged, settings were chosen on the others. Every network gets the same pixels, in its own size and units.

`resnet20` has other classes: its photographs are the held-out pictures of PACS that it classifies correctly.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.shared import relu_network
from benchmarks.shared.pacs import load_pacs
from benchmarks.shared.real_networks import lite0, lite1, squeezenet
from xai_align.data.images import open_image
from xai_align.hookspecs import LoadedModel

#: Number of judged photographs.
JUDGED = 48


@dataclass(frozen=True)
class Photograph:
    """One photograph: its name, its class, and its pixels ``[3, 224, 224]`` in [0, 1], the same for every network.

    Pictures of PACS are ``[3, 96, 96]``.
    """

    name: str
    label: int
    pixels: Tensor


@dataclass(frozen=True)
class Judge:
    """Network with its size and units."""

    name: str
    load: Callable[[], LoadedModel]
    size: int

    @property
    def model(self) -> nn.Module:
        return _loaded(self.name).model

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the mean and standard deviation of its pixels."""
        loaded = _loaded(self.name)
        return tuple(loaded.mean), tuple(loaded.std)

    def view(self, pixels: Tensor) -> Tensor:
        """Return pixels ``[N, 3, 224, 224]`` in [0, 1] in the network's size and units."""
        loaded = _loaded(self.name)
        if pixels.shape[-1] != self.size:
            pixels = interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (loaded.mean, loaded.std))
        return (pixels - mean) / std


JUDGES = {
    "lite0": Judge("lite0", lite0, 224),
    "lite1": Judge("lite1", lite1, 240),
    "squeezenet": Judge("squeezenet", squeezenet, 224),
    "resnet20": Judge("resnet20", relu_network.load, relu_network.SIZE),
}


@cache
def _loaded(name: str) -> LoadedModel:
    loaded = JUDGES[name].load()
    for parameter in loaded.model.parameters():
        parameter.requires_grad_(False)
    return loaded


def photographs(folder: Path) -> tuple[list[Photograph], list[Photograph]]:
    """Return ``(judged, others)`` of a folder with a labels.json."""
    right = []
    for entry in json.loads((folder / "labels.json").read_text("utf-8")):
        pixels = pixels_of(folder / entry["file"])
        with torch.no_grad():
            predicted = [int(JUDGES[n].model(JUDGES[n].view(pixels[None])).argmax()) for n in ("lite0", "squeezenet")]
        if predicted == [entry["label"]] * 2:
            right.append(Photograph(Path(entry["file"]).stem, entry["label"], pixels))
    order = torch.randperm(len(right), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [right[i] for i in order]
    return shuffled[:JUDGED], shuffled[JUDGED:]


def photographs_of(network: str, folder: Path) -> tuple[list[Photograph], list[Photograph]]:
    """Return ``(judged, others)`` for a network: of a folder with a labels.json, or for `resnet20` of PACS."""
    return pictures_of_pacs(folder) if network == "resnet20" else photographs(folder)


def pictures_of_pacs(folder: Path) -> tuple[list[Photograph], list[Photograph]]:
    """Return ``(judged, others)`` of the pictures that `resnet20` was not trained on and classifies correctly."""
    pacs, judge = load_pacs(folder), JUDGES["resnet20"]
    parts = relu_network.parts_of(pacs)
    held_out = torch.cat([parts.validation, parts.test])
    pixels, labels = relu_network.small(pacs.pixels[held_out]), pacs.labels[held_out]
    with torch.no_grad():
        right = torch.cat([judge.model(judge.view(some)).argmax(1) for some in pixels.split(64)]) == labels
    numbers = right.nonzero()[:, 0]
    numbers = numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))].tolist()
    found = [Photograph(f"{int(held_out[i]):04d}", int(labels[i]), pixels[i]) for i in numbers]
    return found[:JUDGED], found[JUDGED:]


def pixels_of(file: Path) -> Tensor:
    """Return the centre of a photograph as EfficientNet-Lite0 crops it, ``[3, 224, 224]`` in [0, 1]."""
    loaded = _loaded("lite0")
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (loaded.mean, loaded.std))
    return loaded.preprocess(open_image(file)) * std + mean
