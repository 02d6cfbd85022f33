"""Where the object is: the share of a map's energy inside the box, on photographs with boxes.

    python -m benchmarks.fei.boxes --boxes DIR --network lite0 [--limit 63]

For maps whose zero means nothing, energy favours whoever cuts highest, so the share of the map's top fifth of the
pixels that lies in the box, and the pointing game, stand beside it. Differences to the exact readout are paired.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.fei.maps import LAYERS, by_name, readout
from benchmarks.shared.photographs import JUDGES
from xai_align.comparison.bootstrap import bootstrap_means
from xai_align.evaluation.boxes import boxes_to_masks
from xai_align.evaluation.localisation import energy_inside, pointing_game
from xai_align.fei import optimize_masks
from xai_align.images import open_image
from xai_align.terminal import progress_bar

METHODS = ("readout", "fei", "layercam", "input_x_gradient", "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", required=True, type=Path, help="photographs with a labels.json that holds boxes")
    parser.add_argument("--network", choices=LAYERS, required=True)
    parser.add_argument("--limit", type=int, default=None)
    options = parser.parse_args()
    network = JUDGES[options.network]
    entries = json.loads((options.boxes / "labels.json").read_text("utf-8"))[: options.limit]
    found: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    with progress_bar() as bar:
        for entry in bar.track(entries):
            # boxes are shares of the whole picture, so it is squeezed and not cropped
            squeezed = open_image(options.boxes / entry["file"]).convert("RGB").resize((224, 224))
            pixels = torch.from_numpy(np.array(squeezed)).permute(2, 0, 1).float() / 255
            mask = boxes_to_masks([entry["boxes_xywh_centre_norm"]], (224, 224))
            for method in METHODS:
                made = explained(method, network.name, network.view(pixels[None]), entry["imagenet_class"])[None]
                numbers = (energy_inside(made, mask), top_fifth(made, mask), pointing_game(made, mask))
                found[method].append([float(number) for number in numbers])
    print(
        f"{network.name}, {len(entries)} photographs\n\n| method | energy inside | top fifth inside | pointing game |"
    )
    print("|---|---|---|---|")
    base = torch.tensor(found["readout"])
    for method, rows in found.items():
        values = torch.tensor(rows)
        cells = [f"{value:.3f}" for value in values.nanmean(0).tolist()]
        gaps = [gap(values[:, k] - base[:, k]) for k in range(3)] if method != "readout" else [""] * 3
        print(f"| {method} | " + " | ".join(f"{cell}{by}" for cell, by in zip(cells, gaps, strict=True)) + " |")


def explained(method: str, network: str, x: Tensor, label: int) -> Tensor:
    """One map ``[224, 224]``."""
    model = JUDGES[network].model
    if method == "readout":
        return readout(model, x, label, network)
    if method == "fei":
        return optimize_masks(model, x, [label]).attribution[0]
    return by_name(method, model, x, label, network)


def top_fifth(maps: Tensor, masks: Tensor) -> Tensor:
    """``[N]``: how much of the fifth of the pixels that score highest lies inside."""
    flat = maps.flatten(1)
    top = flat.argsort(dim=1, descending=True, stable=True)[:, : flat.shape[1] // 5]
    return masks.flatten(1).float().gather(1, top).mean(1)


def gap(differences: Tensor) -> str:
    """The mean difference and its interval, in brackets."""
    found = bootstrap_means(differences[:, None].double().numpy())
    return f" ({found.mean[0]:+.3f}; {found.low[0]:+.3f} to {found.high[0]:+.3f})"


if __name__ == "__main__":
    main()
