"""Photographs with boxes: a folder's pictures and masks, and the share of a map inside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.shared.photographs import Photograph
from xai_align.data.images import open_image
from xai_align.evaluation.boxes import boxes_to_masks
from xai_align.evaluation.localisation import energy_inside, pointing_game

#: Names of the numbers that :func:`inside` returns.
PLACES = ("energy inside", "top fifth inside", "pointing game")


def with_boxes(folder: Path, limit: int | None = None) -> tuple[list[Photograph], Tensor]:
    """Return the photographs of a folder whose labels.json has boxes, and the boxes as masks ``[N, 224, 224]``."""
    entries = json.loads((folder / "labels.json").read_text("utf-8"))[:limit]
    found = []
    for entry in entries:
        # boxes are shares of the whole picture, so it is resized and not cropped
        squeezed = open_image(folder / entry["file"]).convert("RGB").resize((224, 224))
        pixels = torch.from_numpy(np.array(squeezed)).permute(2, 0, 1).float() / 255
        found.append(Photograph(Path(entry["file"]).stem, entry["imagenet_class"], pixels))
    return found, boxes_to_masks([entry["boxes_xywh_centre_norm"] for entry in entries], (224, 224))


def inside(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the numbers named in :data:`PLACES`, each ``[N]``."""
    return energy_inside(maps, masks), top_fifth(maps, masks), pointing_game(maps, masks)


def top_fifth(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share inside of the fifth of the pixels with the highest scores, ``[N]``."""
    flat = maps.flatten(1)
    top = flat.argsort(dim=1, descending=True, stable=True)[:, : flat.shape[1] // 5]
    return masks.flatten(1).float().gather(1, top).mean(1)
