"""Table of the share of FEI's and its peers' maps inside the box, on photographs with boxes.

    python -m benchmarks.fei.boxes --boxes DIR --network lite0 [--limit 63] [--methods readout,fei,fei-both]

For maps whose zero has no meaning, the energy in the box depends on the threshold and favours the highest one. So the
table also has the share of the top fifth of the pixels that lies in the box, and the pointing game. Differences to the
exact readout are paired.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.shared.boxes import PLACES, inside, with_boxes
from benchmarks.shared.coarse_maps import by_name, readout
from benchmarks.shared.intervals import from_to
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.photographs import JUDGES
from benchmarks.shared.positive_integer import positive_integer
from xai_align.cli.terminal import progress_bar
from xai_align.fei import optimize_masks

#: Methods of the table.
METHODS = ("readout", "fei", "layercam", "input_x_gradient", "random")
#: Optimised methods, and their solvers.
SOLVERS = {"fei": "curve", "fei-both": "both", "fei-nested": "nested"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", required=True, type=Path, help="photographs with a labels.json with boxes")
    parser.add_argument("--network", choices=("lite0", "squeezenet"), required=True)
    parser.add_argument("--methods", default=",".join(METHODS), help="names, separated by commas")
    parser.add_argument("--limit", type=positive_integer, default=None)
    options = parser.parse_args()
    network = JUDGES[options.network]
    photographs, masks = with_boxes(options.boxes, options.limit)
    methods = dict.fromkeys(["readout", *options.methods.split(",")])  # differences are to the readout
    found: dict[str, list[list[float]]] = {method: [] for method in methods}
    with progress_bar() as bar:
        for photograph, mask in zip(bar.track(photographs), masks, strict=True):
            x = network.view(photograph.pixels[None])
            for method in found:
                made = explained(method, network.name, x, photograph.label)[None]
                found[method].append([float(number) for number in inside(made, mask[None])])
    print(f"{network.name}, {len(photographs)} photographs\n\n{heading('method', *PLACES)}")
    base = torch.tensor(found["readout"])
    for method, rows in found.items():
        values = torch.tensor(rows)
        cells = [f"{value:.3f}" for value in values.nanmean(0).tolist()]
        if method != "readout":
            gaps = [from_to(values[:, k] - base[:, k]) for k in range(len(PLACES))]
            cells = [f"{cell} ({gap})" for cell, gap in zip(cells, gaps, strict=True)]
        print(row(method, *cells))


def explained(method: str, network: str, x: Tensor, label: int) -> Tensor:
    """Return one map ``[224, 224]``."""
    model = JUDGES[network].model
    if method == "readout":
        return readout(model, x, label, network)
    if method in SOLVERS:
        return optimize_masks(model, x, [label], solver=SOLVERS[method]).attribution[0]
    return by_name(method, model, x, label, network)


if __name__ == "__main__":
    main()
