"""Count the wrong classes that masks can draw on a blank image, for each solver and clipping rule.

    python -m benchmarks.fei.defence --network squeezenet --classes 50 [--steps 20]

The image is black, the reference zero in the network's units: the test of FEI's authors (arXiv 2509.04588; their
released code). For each of some classes that the network does not give for the image, masks are optimised; the map,
from 0 to 1, times the image is taken for that class if the computation was rerouted. Counted for each solver and
rule, with the mean probability of the class. `--steps` are those of each of the nested solver's five quantiles.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shared.markdown import heading, row
from benchmarks.shared.photographs import JUDGES
from xai_align.fei import optimize_masks
from xai_align.fei.published.clipping_rules import RULES

#: Classes that are explained at once.
AT_ONCE = 10
Maps = Callable[[nn.Module, Tensor, list[int]], Tensor]


def solvers(steps: int, rules: list[str]) -> dict[str, Maps]:
    """Maps ``[N, H, W]`` by name."""
    curve = partial(_maps, solver="curve")
    found: dict[str, Maps] = {
        "fei (default)": curve,
        "curve, unpenalised": partial(curve, deviation_weight=0.0),
        "curve, pixels, no safeguards": partial(curve, **UNGUARDED),
    }
    found |= {f"curve, {rule}": partial(curve, clip=rule) for rule in rules if rule != "none"}
    return found | {f"nested, {rule}": partial(_maps, solver="nested", clip=rule, n_iter=steps) for rule in rules}


#: The curve solver as an attack: every pixel by itself, the plain gradient, one fill, nothing moved.
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


def fooled(model: nn.Module, x: Tensor, classes: list[int], maps: Tensor) -> tuple[int, float]:
    """Share of maps times the image that are predicted as their class, and the classes' mean probability."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    shown = x * ((maps - low) / (high - low).clamp_min(1e-12))[:, None]
    with torch.no_grad():
        p = model(shown).softmax(1)
    wanted = torch.tensor(classes)
    return int((p.argmax(1) == wanted).sum()), float(p.gather(1, wanted[:, None]).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("lite0", "squeezenet"), required=True)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rules", nargs="+", default=["none", *RULES])
    parser.add_argument("--only", help="solvers whose names hold this")
    options = parser.parse_args()
    judge = JUDGES[options.network]
    model = judge.model
    black = judge.view(torch.zeros(1, 3, 224, 224))
    predicted = int(model(black).argmax())
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).tolist()
    classes = [c for c in order if c != predicted][: options.classes]
    print(heading("solver, rule", "taken for the class", "mean probability", "seconds"), flush=True)
    for name, make in solvers(options.steps, options.rules).items():
        if options.only and options.only not in name:
            continue
        start, count, total = perf_counter(), 0, 0.0
        for first in range(0, len(classes), AT_ONCE):
            some = classes[first : first + AT_ONCE]
            x = black.expand(len(some), -1, -1, -1).contiguous()
            found, p = fooled(model, x, some, make(model, x, some))
            count, total = count + found, total + p
        seconds = perf_counter() - start
        print(row(name, f"{count} of {len(classes)}", f"{total / len(classes):.3f}", f"{seconds:.0f}"), flush=True)


if __name__ == "__main__":
    main()
