"""Train networks on the areas of triangles: from areas in pixels alone, in one stage or two, and from the masks.

    python -m benchmarks.toyshapes.areas --out OUT --fits 3

It replaces the flood segmentation of PiNet's paper: softmax maps over {triangle, rest}, each cell counts its
area (z = 1, a = 0, s = 1), and the loss is the mean absolute error of the areas. Networks, pictures, seeds and
optimisation are the same; only the labels differ. AdamW at 5e-3 with cosine decay, the best weights on
validation (areas: by MAE; masks: by IoU). Two answers without a network are shown too, spread evenly over the picture:
no area, and the median of the training areas.

In two stages, a PiNet whose decoder has shortcuts first learns which pictures have an area above zero, as the recipe of
ToyShapes begins (`benchmarks.toyshapes.recipe`), and then, with z = 1, how large the areas are. Both stages use areas
alone.

Takes about five seconds an epoch on one core.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.shared.markdown import heading, row
from benchmarks.shared.positive_integer import positive_integer
from benchmarks.toyshapes.fits import channels_last, data_of, first_stage, unseen_pictures
from benchmarks.toyshapes.groups import BATCH, FIRST_STAGES, START
from benchmarks.toyshapes.recipe import ShortcutDecoder, sharp_pinet
from benchmarks.toyshapes.scores import CHUNK, intersection_over_union
from examples.toyshapes.generator import SIZE, ToyShapes
from xai_align.comparison.store import write_whole
from xai_align.pinet import PiNet, PiNetLoss, SecondLookHead, conv_pinet
from xai_align.training import fit_pinet
from xai_align.training.choices import Precision

Label = Literal["areas", "areas, in two stages", "masks"]
LABELS: tuple[Label, ...] = get_args(Label)
COLUMNS = {"MAE, pixels": "error", "MAE / area": "relative", "IoU": "iou", "TDR": "tdr", "TAR": "tar"}


class Labelled(Dataset[tuple[Tensor, Tensor]]):
    """Pictures with areas of {triangle, rest} in pixels (two stages: of the triangle), or with every pixel's class."""

    def __init__(self, shapes: ToyShapes, label: Label) -> None:
        triangle = shapes.masks.long()
        areas = torch.stack([triangle.sum((1, 2)), (1 - triangle).sum((1, 2))], 1).float()
        targets = {"areas": areas, "areas, in two stages": areas[:, :1], "masks": 1 - triangle}
        self.images, self.targets = shapes.images, targets[label]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.images[i], self.targets[i]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--fits", type=positive_integer, default=3)
    parser.add_argument("--epochs", type=positive_integer, default=15)
    parser.add_argument("--from", dest="labels", nargs="*", choices=LABELS, default=LABELS, help="labels to train on")
    parser.add_argument("--precision", choices=["no", "bf16"], default="bf16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # coefficients far from all shapes become tiny, and denormal numbers are slow
    found: dict[Label, list[dict[str, float]]] = {label: [] for label in options.labels}
    for number in range(options.fits):
        for label in options.labels:
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


def run(label: Label, number: int, epochs: int, precision: Precision) -> dict[str, float]:
    train, validation = data_of(number)
    torch.manual_seed(number)
    if label == "areas, in two stages":
        model = that_counts(that_tells_any(train, validation, number, precision))
    else:
        model = conv_pinet(2, activation="softmax", second_look="soft", scale="one", bias="zero")
    fit_pinet(
        model.to(memory_format=torch.channels_last),
        Labelled(train, label),
        Labelled(validation, label),
        loss=PiNetLoss("segmentation" if label == "masks" else "regression"),
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=5e-3,
        betas=(0.9, 0.95),
        schedule="cosine",
        seed=number,
        mixed_precision=precision,
    )
    model.eval()
    test = unseen_pictures()
    with torch.no_grad():
        seen = [model.explain(chunk) for chunk in test.images.split(CHUNK)]
    areas = torch.cat([one.logits[:, 0] for one in seen])
    maps = torch.cat([one.coefficient_maps[:, 0] for one in seen])
    return measured(areas, maps, test)


def that_tells_any(train: ToyShapes, validation: ToyShapes, number: int, precision: Precision) -> PiNet:
    """Return the first stage, which learns which pictures have an area above zero."""
    model = sharp_pinet(START)
    group = FIRST_STAGES["first-stage"]
    first_stage(group, channels_last(model), with_any(train), with_any(validation), number, precision)
    return model


def with_any(shapes: ToyShapes) -> ToyShapes:
    """Return the pictures, labelled 1 if their area is above zero, else 0."""
    return replace(shapes, labels=(shapes.masks.sum((1, 2)) > 0).to(shapes.labels.dtype))


def that_counts(first: PiNet) -> PiNet:
    """Return the second stage's network: the maps of the first, with the area of every pixel (z = 1, a = 0, s = 1)."""
    channels = first.encoder.channels
    head = SecondLookHead(
        channels, 1, decoder=ShortcutDecoder(channels, 1), second_look="soft", scale="one", bias="zero"
    )
    head.decoder.load_state_dict(first.head.decoder.state_dict())
    return PiNet(first.encoder, head)


def of_one_area(area: float, test: ToyShapes) -> dict[str, float]:
    """Return the scores of the same area for every picture, spread evenly over it."""
    maps = torch.full(test.masks.shape, area / SIZE**2)
    return measured(maps.sum((1, 2)), maps, test)


def measured(areas: Tensor, maps: Tensor, test: ToyShapes) -> dict[str, float]:
    """Return the error of the areas, TDR and TAR of soft maps, and the IoU of pixels above one half."""
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
