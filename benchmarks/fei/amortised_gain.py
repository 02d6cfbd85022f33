"""Judge an amortised explainer at the size of its own images: its share of the gain of `fei` over the readout.

    python -m benchmarks.fei.amortised_gain --images DEV150 --out OUT [--side 160] [--limit 24]

Needs the explainer that `python -m benchmarks.fei.amortised fit` left in OUT. Readout, `fei` and explainer take the
photographs at this size, at which the network also judges their maps: insertion less deletion, own curves (28 steps),
and ROAD, another photograph and noise (10 steps). A judged photograph is not judged again.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.fei.amortised import FIT, METHOD, SIDE, normalised, resized
from benchmarks.fei.verdicts import OWN_STEPS
from benchmarks.shared.coarse_maps import readout
from benchmarks.shared.curves import BATCH, PLACES_ON, areas_of, both_games, own_games
from benchmarks.shared.intervals import plus_minus
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.photographs import JUDGES, photographs
from benchmarks.shared.positive_integer import positive_integer
from xai_align.cli.terminal import progress_bar
from xai_align.comparison.store import write_whole
from xai_align.fei import AmortisedFEI, optimize_masks
from xai_align.perturbation import TieWarning, perturbation_curves

#: Columns: the fills of insertion and of deletion.
COLUMNS = {
    "own": ("blur", "zero"),
    "ROAD": ("noisy_linear", "noisy_linear"),
    "photograph": ("photograph", "photograph"),
    "noise": ("noise", "noise"),
}
METHODS = ("readout", "fei", METHOD)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, help="photographs with a labels.json")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--side", type=positive_integer, default=SIDE)
    parser.add_argument("--limit", type=positive_integer, default=48, help="number of the judged photographs")
    options = parser.parse_args()
    everyone = photographs(options.images)[0]
    judged = everyone[: options.limit]
    model = JUDGES["lite0"].model
    explainer = AmortisedFEI(model, options.out / FIT / "explainer.safetensors")
    folder = options.out / "gain" / str(options.side)
    folder.mkdir(parents=True, exist_ok=True)

    def seen(number: int) -> Tensor:
        return normalised(resized(everyone[number % len(everyone)].pixels[None], options.side))

    found = []
    with progress_bar() as bar:
        for number, photograph in enumerate(bar.track(judged)):
            file = folder / f"{photograph.name}.json"
            if not file.exists():
                x, label = seen(number), photograph.label
                maps: dict[str, Callable[[], Tensor]] = {
                    "readout": lambda x=x, label=label: readout(model, x, label, "lite0"),
                    "fei": lambda x=x, label=label: optimize_masks(model, x, [label]).attribution[0],
                    METHOD: lambda x=x, label=label: explainer.attribute(x, target=label).sum(1)[0],
                }
                drawn = torch.stack([maps[name]() for name in METHODS])
                write_whole(file, json.dumps(judge(x, seen(number + PLACES_ON), drawn, label)) + "\n")
            found.append(json.loads(file.read_text("utf-8")))
    print(table(np.array(found)))


def judge(x: Tensor, other: Tensor, maps: Tensor, label: int) -> list[list[float]]:
    """Return insertion less deletion of each map ``[M, side, side]`` of one image, in the order of the columns."""
    copies = x.expand(len(maps), -1, -1, -1).contiguous()
    series = own_games(OWN_STEPS) | both_games("noisy_linear", "noisy_linear") | both_games("noise", "noise")
    series |= both_games("photograph", other.expand_as(copies))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)
        curves = perturbation_curves(
            JUDGES["lite0"].model, copies, maps, list(series.values()), internal_batch_size=BATCH
        )
    areas = areas_of(dict(zip(series, curves, strict=True)), [label] * len(maps))
    return [[one[f"insertion {more}"] - one[f"deletion {less}"] for more, less in COLUMNS.values()] for one in areas]


def table(found: NDArray[np.float64]) -> str:
    """Return tables of verdicts ``[photographs, methods, columns]``."""
    start, search, once = (found[:, METHODS.index(name)] for name in METHODS)
    lines = [f"{len(found)} photographs\n", heading("", *COLUMNS)]
    lines += [row(name, *plus_minus(found[:, k])) for k, name in enumerate(METHODS)]
    lines += [row("fei less readout", *plus_minus(search - start, sign="+"))]
    lines += [row(f"{METHOD} less readout", *plus_minus(once - start, sign="+"))]
    shares = (once - start).mean(0) / (search - start).mean(0)
    lines += [row(f"share of fei's gain that {METHOD} has", *(f"{share:.0%}" for share in shares))]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
