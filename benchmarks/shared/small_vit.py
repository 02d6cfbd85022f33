"""Vision transformer with real weights, and photographs of its ten classes.

ViT-S/14 in DINOv2's shape with a linear head for Imagenette's ten classes, from a safetensors file with timm's names of
`vit_small_patch14_dinov2` at 224 px, and photographs of 224 x 224 whose names begin with a WordNet id.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xai_align.data.images import open_image

#: WordNet ids of the classes, in the order of the logits.
CLASSES = (
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079",
    "n03394916", "n03417042", "n03425413", "n03445777", "n03888257",
)  # fmt: skip
#: Number of judged photographs; settings were chosen on the others.
JUDGED = 48
BOXES = Path(__file__).parents[1] / "readout" / "imagenette_boxes.json"
#: Mean and standard deviation of each colour in the network's units, of pixels from 0 to 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MEAN, _STD = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))


class Photographs(NamedTuple):
    """Names, images ``[N, 3, 224, 224]`` in the network's units, and labels."""

    names: list[str]
    images: Tensor
    labels: list[int]


def small_vit(weights: Path) -> nn.Module:
    """Return the network in eval mode, without gradients of parameters."""
    model = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=len(CLASSES)).eval()
    model.load_state_dict(load_file(weights))
    return model.requires_grad_(False)


def photographs(folder: Path) -> tuple[Photographs, Photographs]:
    """Return ``(judged, others)``, in a random order of fixed seed."""
    files = sorted(folder.glob("*.JPEG"))
    if len(files) <= JUDGED:
        raise SystemExit(
            f"{folder} has {len(files)} files *.JPEG, but {JUDGED} are judged and settings are chosen on others; give "
            "the folder of the transformer's photographs"
        )
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    judged, others = ([files[i] for i in some] for some in (order[:JUDGED], order[JUDGED:]))
    return _read(judged), _read(others)


def with_boxes(folder: Path) -> tuple[Photographs, list[tuple[int, int, int, int]]]:
    """Return the photographs with a box drawn by hand, and the boxes: left, top, right, bottom in pixels."""
    boxes = json.loads(BOXES.read_text("utf-8"))["boxes"]
    return _read([folder / name for name in boxes]), [tuple(entry["box"]) for entry in boxes.values()]


def _read(files: list[Path]) -> Photographs:
    pixels = [torch.from_numpy(np.array(open_image(file).convert("RGB"))).permute(2, 0, 1) / 255 for file in files]
    images = torch.stack([(one - _MEAN) / _STD for one in pixels])
    return Photographs([file.name for file in files], images, [CLASSES.index(file.name[:9]) for file in files])
