"""Train two networks on the areas of triangles: one from areas in pixels alone, one from the masks.

    python -m benchmarks.toyshapes.areas --out OUT --fits 3

It stands in for the flood segmentation of PiNet's paper: softmax maps over {triangle, rest}, each cell counts its
area (z = 1, a = 0, s = 1), and the loss is the mean absolute error of the areas. Networks, pictures, seeds and
optimisation are the same; only what is learnt from differs. AdamW at 5e-3 with cosine decay, the best weights on
validation (areas: by MAE; masks: by IoU). Two answers without a network are shown too, spread evenly over the picture:
no area, and the median of the training areas.

Takes about five seconds an epoch on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.shared.markdown import heading, row
from benchmarks.toyshapes.fits import data_of, unseen_pictures
from benchmarks.toyshapes.groups import BATCH
from benchmarks.toyshapes.scores import CHUNK, intersection_over_union
from examples.toyshapes.generator import SIZE, ToyShapes
from xai_align.comparison.store import write_whole
from xai_align.pinet import PiNetLoss, conv_pinet
from xai_align.training import fit_pinet

Label = Literal["areas", "masks"]
COLUMNS = {"MAE, pixels": "error", "MAE / area": "relative", "IoU": "iou", "TDR": "tdr", "TAR": "tar"}


class Labelled(Dataset[tuple[Tensor, Tensor]]):
    """Pictures with the areas of {triangle, rest} in pixels, or with the class of every pixel."""

    def __init__(self, shapes: ToyShapes, label: Label) -> None:
        triangle = shapes.masks.long()
        areas = torch.stack([triangle.sum((1, 2)), (1 - triangle).sum((1, 2))], 1).float()
        self.images, self.targets = shapes.images, areas if label == "areas" else 1 - triangle

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.images[i], self.targets[i]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--precision", choices=["no", "bf16"], default="bf16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # coefficients far from anything become tiny, and denormal numbers are slow
    labels: tuple[Label, ...] = ("areas", "masks")
    found: dict[Label, list[dict[str, float]]] = {label: [] for label in labels}
    for number in range(options.fits):
        for label in labels:
            file = options.out / "areas" / f"{label}-{number}.json"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(file, json.dumps(run(label, number, options.epochs, options.precision)))
            found[label].append(json.loads(file.read_text()))
    rows: dict[str, list[dict[str, float]]] = {
        **found,
        "nothing: no area for any picture": [of_one_area(0, unseen_pictures())],
        "nothing: the median area for every picture": [
            of_one_area(float(data_of(number)[0].masks.sum((1, 2)).median()), unseen_pictures())
            for number in range(options.fits)
        ],
    }
    print(heading("learnt from", *COLUMNS))
    for name, fits in rows.items():
        print(row(name, *(f"{median(one[column] for one in fits):.3f}" for column in COLUMNS.values())))


def run(label: Label, number: int, epochs: int, precision: str) -> dict[str, float]:
    train, validation = data_of(number)
    torch.manual_seed(number)
    model = conv_pinet(2, activation="softmax", second_look="soft", scale="one", bias="zero")
    fit_pinet(
        model.to(memory_format=torch.channels_last),
        Labelled(train, label),
        Labelled(validation, label),
        loss=PiNetLoss("regression" if label == "areas" else "segmentation"),
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=5e-3,
        betas=(0.9, 0.95),
        schedule="cosine",
        seed=number,
        mixed_precision=precision,  # type: ignore[arg-type]
    )
    model.eval()
    test = unseen_pictures()
    with torch.no_grad():
        seen = [model.explain(chunk) for chunk in test.images.split(CHUNK)]
    areas = torch.cat([one.logits[:, 0] for one in seen])
    maps = torch.cat([one.coefficient_maps[:, 0] for one in seen])
    return measured(areas, maps, test)


def of_one_area(area: float, test: ToyShapes) -> dict[str, float]:
    """The scores of the same area for every picture, spread evenly over it."""
    maps = torch.full(test.masks.shape, area / SIZE**2)
    return measured(maps.sum((1, 2)), maps, test)


def measured(areas: Tensor, maps: Tensor, test: ToyShapes) -> dict[str, float]:
    """The error of the areas, and where they are: TDR and TAR of soft maps, the IoU of pixels above one half."""
    true = test.masks.sum((1, 2))
    error = float((areas - true).abs().double().mean())
    inside = (maps * test.masks).sum((1, 2)) / true
    outside = ((1 - maps) * ~test.masks).sum((1, 2)) / (~test.masks).sum((1, 2))
    return {
        "error": error,
        "relative": error / float(true.double().mean()),
        "iou": intersection_over_union(maps > 0.5, test.masks),
        "tdr": float(inside[true > 0].mean()),
        "tar": float(outside.mean()),
    }


if __name__ == "__main__":
    main()
