"""Compare exact readouts of the same answer: faithfulness, share inside the object's box, and cost.

    python -m benchmarks.readout.sharp maps --images DIR --out OUT --network lite0 [--on others] [--limit 16]
    python -m benchmarks.readout.sharp judge --out OUT --images DIR --network lite0 [--methods 'random;last map']
    python -m benchmarks.readout.sharp boxes --images DIR --network lite0
    python -m benchmarks.readout.sharp cost --network lite0
    python -m benchmarks.readout.sharp table --out OUT --network lite0 [--on others]

Settings were chosen on the photographs that are not judged (`--on others`). Every map is spread smoothly over the
pixels. Judged by its own network: insertion from blur and deletion to zeros, the usual measure of maps, and insertion
and deletion with fills that nothing was tuned for: noise, imputation from the remaining pixels (ROAD), another
photograph. Judged by another network: insertion from blur and deletion to zeros. 10 steps each, 7 with such fills; the
tables of RESULTS.md are in bfloat16, and runs are now in float32.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shared.boxes import PLACES, inside, with_boxes
from benchmarks.shared.coarse_maps import LAYERS
from benchmarks.shared.curves import (
    BATCH,
    OTHER_STEPS,
    OTHERS,
    PLACES_ON,
    PRECISION,
    areas_of,
    both_games,
    on_another_network,
    own_games,
)
from benchmarks.shared.intervals import plus_minus
from benchmarks.shared.kept import keep
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.measuring import timed
from benchmarks.shared.photographs import JUDGES, Photograph, photographs
from benchmarks.shared.positive_integer import positive_integer
from xai_align import read_out
from xai_align.comparison.store import write_whole
from xai_align.perturbation import TieWarning, perturbation_curves
from xai_align.pinet import ReadoutLayer

#: Stages whose cells are 4, 8 and 16 pixels wide.
STAGES = {
    "lite0": {4: "blocks.1", 8: "blocks.2", 16: "blocks.4"},
    "squeezenet": {4: "features.2", 8: "features.5", 16: "features.8"},
}
UNSEEN_STEPS = 7
#: Number of timings; the first is not counted.
ROUNDS = 8
#: Other network that judges a map.
OTHER = {network: OTHERS[network][0] for network in STAGES}


def cam(network: str) -> ReadoutLayer:
    """Return the readout at the last map, unchanged."""
    return ReadoutLayer(feature_space=LAYERS[network])


def stage(network: str, pixels: int, **rule: Any) -> ReadoutLayer:
    """Return a readout at the stage whose cells have this width in pixels."""
    return ReadoutLayer(feature_space=STAGES[network][pixels], **rule)


def gamma(network: str, pixels: int, **options: Any) -> ReadoutLayer:
    """Return a layer read by the gamma rule, with biases placed."""
    return stage(network, pixels, rule="gamma", biases="placed", **options)


#: Function of a network's name that returns the layers of a readout and their weights; None: the network's default.
Variant = Callable[[str], tuple[list[ReadoutLayer] | None, list[float] | None]]
VARIANTS: dict[str, Variant] = {
    "default": lambda n: (None, None),
    "last map": lambda n: ([cam(n)], [1.0]),
    "gates 8": lambda n: ([stage(n, 8)], [1.0]),
    "gates 8 + last": lambda n: ([stage(n, 8), cam(n)], [0.5, 0.5]),
    "gates 8, placed": lambda n: ([stage(n, 8, biases="placed")], [1.0]),
    "gamma 0.25 8": lambda n: ([stage(n, 8, rule="gamma")], [1.0]),
    "gamma 0.25 8, placed": lambda n: ([gamma(n, 8)], [1.0]),
    "gamma 1 8, placed": lambda n: ([gamma(n, 8, gamma=1)], [1.0]),
    "gamma 0.25 8, placed + last": lambda n: ([gamma(n, 8), cam(n)], [0.5, 0.5]),
    "gamma 0.25 8, placed, classifier by gates + last": lambda n: ([gamma(n, 8, classifier=0.0), cam(n)], [0.5, 0.5]),
    "gamma 0.25 8 and 16, placed + last": lambda n: ([gamma(n, 8), gamma(n, 16), cam(n)], [1 / 3] * 3),
}
#: Methods that are not readouts.
CONTROL = "random"


def maps_of(method: str, network: str, x: Tensor, labels: list[int]) -> Tensor:
    """Return maps ``[N, 224, 224]``."""
    if method == CONTROL:
        return torch.rand(len(x), *x.shape[-2:], generator=torch.Generator().manual_seed(labels[0]))
    places, weights = VARIANTS[method](network)
    return read_out(JUDGES[network].model, x, labels, places, weights=weights).map("smooth").detach()


def chosen(options: argparse.Namespace) -> list[Photograph]:
    judged, others = photographs(options.images)
    return (judged if options.on == "judged" else others)[: options.limit]


def make_maps(options: argparse.Namespace) -> None:
    found = chosen(options)
    for method in options.methods:
        file = _file(options, "maps", method, "pt")
        if file.exists():
            continue
        made = []
        for some in (found[i : i + 8] for i in range(0, len(found), 8)):
            x = JUDGES[options.network].view(torch.stack([photograph.pixels for photograph in some]))
            made.append(maps_of(method, options.network, x, [photograph.label for photograph in some]))
        keep(torch.cat(made), file)
        print(f"{options.network} {method}: {sum(map(len, made))} maps", flush=True)


def judge_maps(options: argparse.Namespace) -> None:
    found = chosen(options)
    for method in options.methods:
        file = _file(options, "areas", method, "json")
        if not file.exists():
            maps = torch.load(_file(options, "maps", method, "pt"))
            seconds, areas = timed(lambda maps=maps: areas_on(options.network, found, maps))
            write_whole(file, json.dumps(areas))
            print(f"{options.network} {method}: {seconds:.0f} s", flush=True)


def areas_on(network: str, found: list[Photograph], maps: Tensor) -> list[dict[str, float]]:
    """Return the area under each curve for each map; ``"other ..."`` by the other network."""
    warnings.simplefilter("ignore", TieWarning)
    pixels = torch.stack([photograph.pixels for photograph in found])
    labels = [photograph.label for photograph in found]
    x = JUDGES[network].view(pixels)
    series = {
        **own_games(OTHER_STEPS),
        **both_games("noise", "noise", UNSEEN_STEPS),
        **both_games("noisy_linear", "noisy_linear", UNSEEN_STEPS),
        **both_games("photograph", x.roll(-PLACES_ON, 0), UNSEEN_STEPS),
    }
    curves = perturbation_curves(
        JUDGES[network].model, x, maps, list(series.values()), internal_batch_size=BATCH, autocast=PRECISION
    )
    here = areas_of(dict(zip(series, curves, strict=True)), labels)
    there = on_another_network(JUDGES[OTHER[network]], pixels, labels, maps)
    return [one | {f"other {name}": value for name, value in two.items()} for one, two in zip(here, there, strict=True)]


COLUMNS: dict[str, Callable[[dict[str, float]], float]] = {
    "own": lambda a: a["insertion blur"] - a["deletion zero"],
    "other": lambda a: a["other insertion blur"] - a["other deletion zero"],
    "insertion blur": lambda a: a["insertion blur"],
    "deletion zero": lambda a: a["deletion zero"],
    "insertion noise": lambda a: a["insertion noise"],
    "noise": lambda a: a["insertion noise"] - a["deletion noise"],
    "ROAD": lambda a: a["insertion noisy_linear"] - a["deletion noisy_linear"],
    "photograph": lambda a: a["insertion photograph"] - a["deletion photograph"],
}


def print_table(options: argparse.Namespace) -> None:
    print(heading(f"{options.network}, {options.on}", *COLUMNS))
    base = _rows(options, "last map")
    for method in options.methods:
        if not _file(options, "areas", method, "json").exists():
            continue
        values = _rows(options, method)
        cells = [f"{value:.3f}" for value in values.mean(0).tolist()]
        if method != "last map":
            gaps = plus_minus((values - base).double().numpy(), sign="+")
            cells = [f"{cell} ({gap})" for cell, gap in zip(cells, gaps, strict=True)]
        print(row(method, *cells))


def _rows(options: argparse.Namespace, method: str) -> Tensor:
    areas = json.loads(_file(options, "areas", method, "json").read_text())
    return torch.tensor([[column(one) for column in COLUMNS.values()] for one in areas])


def print_boxes(options: argparse.Namespace) -> None:
    found, masks = with_boxes(options.images, options.limit)
    network = JUDGES[options.network]
    print(heading(f"{network.name}, {len(found)} photographs", *PLACES))
    x, labels = network.view(torch.stack([one.pixels for one in found])), [one.label for one in found]
    for method in options.methods:
        parts = [maps_of(method, network.name, x[i : i + 8], labels[i : i + 8]) for i in range(0, len(x), 8)]
        numbers = [measured.nanmean() for measured in inside(torch.cat(parts), masks)]
        print(row(method, *(f"{float(number):.3f}" for number in numbers)), flush=True)


def print_cost(options: argparse.Namespace) -> None:
    """Print the median ratio to a plain forward pass of the same round, for one image and for four."""
    model: nn.Module = JUDGES[options.network].model
    pixels = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    methods = [method for method in options.methods if method != CONTROL]
    print(heading(options.network, "one image", "four images"))
    ratios: dict[str, list[list[float]]] = {method: [[], []] for method in methods}
    for _ in range(ROUNDS):
        for place, x in enumerate((pixels[:1], pixels)):
            with torch.no_grad():
                plain = _seconds(lambda x=x: model(x))
            for method in methods:
                cost = _seconds(lambda x=x, method=method: maps_of(method, options.network, x, [1] * len(x)))
                ratios[method][place].append(cost / plain)
    for method, (one, four) in ratios.items():
        print(row(method, f"{median(one[1:]):.1f}", f"{median(four[1:]):.1f}"))


def _seconds(work: Callable[[], Any]) -> float:
    """Return the CPU time of this process alone; others may run at the same time."""
    return timed(work, clock=process_time)[0]


def _file(options: argparse.Namespace, kind: str, method: str, suffix: str) -> Path:
    folder: Path = options.out / options.on / options.network / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{method}.{suffix}"


JOBS = {"maps": make_maps, "judge": judge_maps, "table": print_table, "boxes": print_boxes, "cost": print_cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--network", choices=("lite0", "squeezenet"), required=True)
    parser.add_argument("--on", choices=("judged", "others"), default="judged")
    parser.add_argument("--limit", type=positive_integer, default=None)
    parser.add_argument("--methods", type=lambda text: text.split(";"), default=[CONTROL, *VARIANTS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    JOBS[options.job](options)


if __name__ == "__main__":
    main()
