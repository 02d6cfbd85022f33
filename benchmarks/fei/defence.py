"""Count the wrong classes that masks can make a network predict on a blank image, for each solver and clipping rule.

    python -m benchmarks.fei.defence --network squeezenet --out OUT --classes 50 [--steps 100] [--only nested]
    python -m benchmarks.fei.defence --network squeezenet --out OUT --classes 50 --table-only
    python -m benchmarks.fei.defence --network vit --weights FILE --out OUT --classes 5

The image is black, the reference of the nested solver zero in the network's units (the mean colour): the test of FEI's
authors (arXiv 2509.04588; their released code). The range of a black image is one colour, so the curve solver's
colours are drawn from the whole range (`normalization`). Masks are optimised for each of some classes that the network
does not predict for the image; if the computation was rerouted, the map, from 0 to 1, times the image is predicted as
that class. These are counted for each solver and rule (none, ibm, ivm, avm, vm, fgvis, silent), with the mean
probability of the class. `--steps` are those of each of the nested solver's five quantiles. A file for each solver,
rule and class is written to OUT, and existing ones are not repeated; the curve solver has its own number of steps.

Takes about 25 seconds a class and nested rule with 100 steps on SqueezeNet, twice that on EfficientNet-Lite0.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fei import transformer
from benchmarks.fei.networks import network_of
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.measuring import timed
from benchmarks.shared.positive_integer import positive_integer
from xai_align.comparison.store import write_whole
from xai_align.fei import optimize_masks
from xai_align.fei.published.clipping_rules import RULES
from xai_align.fei.solid_colours import Normalization

#: Number of classes that are explained at once.
AT_ONCE = 10
Maps = Callable[[nn.Module, Tensor, list[int]], Tensor]


def solvers(steps: int, rules: list[str], normalization: Normalization) -> dict[str, Maps]:
    """Return functions that give maps ``[N, H, W]``, by name."""
    curve = partial(_maps, solver="curve", normalization=normalization)
    found: dict[str, Maps] = {
        "fei (default)": curve,
        "fei-both": partial(_maps, solver="both", normalization=normalization),
        "fei-both, none": partial(_maps, solver="both", normalization=normalization, clip="none"),
        "curve, unpenalised": partial(curve, deviation_weight=0.0),
        "curve, pixels, no safeguards": partial(curve, **UNGUARDED),
    }
    found |= {f"curve, {rule}": partial(curve, clip=rule) for rule in rules if rule != "none"}
    return found | {
        f"nested, {rule}": partial(_maps, solver="nested", baselines=0.0, clip=rule, n_iter=steps) for rule in rules
    }


#: The curve solver as an attack: every pixel by itself, the plain gradient, one fill, no shifts.
UNGUARDED: dict[str, Any] = {
    "mask_size": 224,
    "scales": ((0.0, 1.0),),
    "start": "flat",
    "baselines": 0.0,
    "shift": 0,
    "mirror": "never",
    "deviation_weight": 0.0,
}


def _maps(model: nn.Module, x: Tensor, classes: list[int], **options: Any) -> Tensor:
    return optimize_masks(model, x, classes, **options).attribution


def fooled(model: nn.Module, x: Tensor, classes: list[int], maps: Tensor) -> list[tuple[bool, float]]:
    """Return, for each map times the image, whether it is predicted as its class, and the class's probability."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    shown = x * ((maps - low) / (high - low).clamp_min(1e-12))[:, None]
    with torch.no_grad():
        p = model(shown).softmax(1)
    wanted = torch.tensor(classes)
    taken = (p.argmax(1) == wanted).tolist()
    return list(zip(taken, p.gather(1, wanted[:, None])[:, 0].tolist(), strict=True))


def try_some(model: nn.Module, black: Tensor, classes: list[int], make: Maps, folder: Path) -> None:
    """Optimise masks for classes without a file, a few at a time, and write a file for each."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [c for c in classes if not (folder / f"{c}.json").exists()]
    for first in range(0, len(waiting), AT_ONCE):
        some = waiting[first : first + AT_ONCE]
        x = black.expand(len(some), -1, -1, -1).contiguous()
        seconds, maps = timed(partial(make, model, x, some))
        for c, (taken, probability) in zip(some, fooled(model, x, some, maps), strict=True):
            found = {"taken": taken, "probability": probability, "seconds": seconds / len(some)}
            write_whole(folder / f"{c}.json", json.dumps(found) + "\n")


def table(folders: dict[str, Path], classes: list[int]) -> str:
    """Return a row for each solver and rule that was tried, over the classes that have files."""
    lines = [heading("solver, rule", "taken for the class", "mean probability", "seconds a class")]
    for name, folder in folders.items():
        files = [file for c in classes if (file := folder / f"{c}.json").exists()]
        found = [json.loads(file.read_text("utf-8")) for file in files]
        if found:
            taken = sum(one["taken"] for one in found)
            means = [sum(one[key] for one in found) / len(found) for key in ("probability", "seconds")]
            lines.append(row(name, f"{taken} of {len(found)}", f"{means[0]:.3f}", f"{means[1]:.1f}"))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("lite0", "squeezenet", transformer.NAME), required=True)
    parser.add_argument("--weights", type=Path, help="file of the transformer's weights")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--classes", type=positive_integer, default=50, help="number of classes")
    parser.add_argument("--steps", type=positive_integer, default=100)
    parser.add_argument("--rules", nargs="+", choices=("none", *RULES), default=["none", *RULES])
    parser.add_argument("--only", help="solvers whose names contain this")
    parser.add_argument("--table-only", action="store_true", help="print the existing results, and optimise nothing")
    options = parser.parse_args()
    network = network_of(options.network, options.weights)
    model, black = network.model, network.view(torch.zeros(1, 3, 224, 224))
    with torch.no_grad():
        logits = model(black)[0]
    predicted = int(logits.argmax())
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0)).tolist()
    classes = [c for c in order if c != predicted][: options.classes]
    chosen = {
        name: make
        for name, make in solvers(options.steps, options.rules, network.normalization).items()
        if not options.only or options.only in name
    }
    folders = {name: options.out / options.network / _folder_name(name, options.steps) for name in chosen}
    for name, make in chosen.items() if not options.table_only else ():
        try_some(model, black, classes, make, folders[name])
        print(table({name: folders[name]}, classes).splitlines()[-1], flush=True)
    print(table(folders, classes))


def _folder_name(name: str, steps: int) -> str:
    words = name.replace(",", "").replace("(", "").replace(")", "").split()
    return "-".join([*words, *([str(steps)] if name.startswith("nested") else [])])


if __name__ == "__main__":
    main()
