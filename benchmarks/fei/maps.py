"""Make the maps of every method for the FEI benchmarks, and save them to files, so that a stopped run resumes.

python -m benchmarks.fei.maps --images DIR --out DIR --network lite0 --methods rise,gradcam [--limit 48] [--on others]
python -m benchmarks.fei.maps --images DIR --out DIR --network vit --weights FILE --methods readout,fei,fei-drop

With `--network resnet20`, DIR holds PACS and RESNET20 names the file that `benchmarks.fei.relu_network` wrote.
`benchmarks.peers.by_name` has the number of passes of each peer; `rise-100`, `lima-100` and so on take 100.

Takes 7 seconds a map for `fei` and 47 for `rise` on EfficientNet-Lite0.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from benchmarks.fei import transformer
from benchmarks.fei.networks import NAMES, network_of, photographs_for
from benchmarks.peers.by_name import PEERS, PUBLISHED
from benchmarks.shared.coarse_maps import by_name, readout
from benchmarks.shared.kept import keep
from benchmarks.shared.measuring import timed
from benchmarks.shared.positive_integer import positive_integer
from xai_align.fei import optimize_masks
from xai_align.fei.curve import STEPS
from xai_align.perturbation import TieWarning

#: Function of a model, an image ``[1, 3, H, W]``, its class and the network's name that returns a map ``[H, W]``.
Method: TypeAlias = Callable[[nn.Module, Tensor, int, str], Tensor]


def optimised(**options: Any) -> Method:
    """Return FEI with these options as a method."""
    return lambda model, x, label, network: optimize_masks(model, x, [label], **options).attribution[0]


def searched(name: str, passes: int) -> Method:
    """Return a peer with this number of passes as a method."""
    return lambda model, x, label, network: PEERS[name](model, x, label, passes=passes)


def refined(cells: int, steps: int, scales: Sequence[tuple[float, float]], **options: Any) -> Method:
    """Return FEI from coarse to fine: the first of its 50 steps on its own cells, the given number on finer ones."""

    def make(model: nn.Module, x: Tensor, label: int, network: str) -> Tensor:
        coarse = optimize_masks(model, x, [label], n_iter=STEPS - steps).attribution
        finer = {"mask_size": cells, "start": coarse, "scales": scales, "seed": 1}
        return optimize_masks(model, x, [label], n_iter=steps, **finer, **options).attribution[0]

    return make


#: Number of passes of every peer in the comparison with equal passes.
PASSES = 100

#: Methods that are not registered: peers as published and with equal passes (`rise-100`), and variants of FEI.
OWN: dict[str, Method] = {
    "readout": readout,
    **{name: searched(name, passes) for name, passes in PUBLISHED.items()},
    **{f"{name}-{PASSES}": searched(name, PASSES) for name in PEERS},
    "fei": optimised(),
    "fei-before": optimised(n_iter=45, shift=8, mirror="random"),
    "fei-nested": optimised(solver="nested"),
    "fei-both": optimised(solver="both"),
    "fei-nested-unclipped": optimised(solver="nested", clip="none"),
    "fei-nested-20": optimised(solver="nested", n_iter=20),
    "fei-nested-silent": optimised(solver="nested", clip="silent"),
    "fei-unpenalised": optimised(deviation_weight=0.0),
    "fei-penalised-2": optimised(deviation_weight=2.0),
    "fei-ibm": optimised(clip="ibm"),
    "fei-silent": optimised(clip="silent"),
    "fei-two-fills": optimised(fills=("blur", "zero")),
    "fei-flat": optimised(start="flat"),
    "fei-default-start": optimised(start="default readout"),
    "fei-faster": optimised(lr=0.2),
    "fei-refined-112": refined(
        112, 20, ((0.0, 0.7), (1.0, 0.5), (4.0, 0.5), (10.0, 0.5)), lr=0.05, temperatures=(0.3, 0.12)
    ),
    "fei-refined-224": refined(224, 25, ((0.0, 0.7), (2.0, 0.5), (8.0, 0.5)), temperatures=(0.4, 0.12)),
    "fei-15": optimised(n_iter=15),
    "fei-30": optimised(n_iter=30),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--network", choices=NAMES, required=True)
    parser.add_argument("--weights", type=Path, help="file of the transformer's weights")
    parser.add_argument("--methods", required=True)
    parser.add_argument("--limit", type=positive_integer, default=48)
    parser.add_argument(
        "--on", choices=("judged", "others"), default="judged", help="settings are chosen on the others"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore", TieWarning)  # the share of ties is part of the verdict
    of_tokens = options.network == transformer.NAME
    judged = photographs_for(options.network, options.images, options.on)
    network = network_of(options.network, options.weights)
    known, other = (transformer.METHODS, transformer.by_name) if of_tokens else (OWN, by_name)
    for method in options.methods.split(","):
        folder = options.out / network.name / method
        folder.mkdir(parents=True, exist_ok=True)
        spent = 0.0
        for photograph in judged[: options.limit]:
            file = folder / f"{photograph.name}.pt"
            if file.exists():
                continue
            x = network.view(photograph.pixels[None])
            make = known.get(method) or partial(other, method)
            seconds, found = timed(partial(make, network.model, x, photograph.label, network.name))
            keep({"map": found.float(), "seconds": seconds}, file)
            spent += seconds
        print(f"{network.name} {method}: {spent:.1f} s", flush=True)


if __name__ == "__main__":
    main()
