"""Maps of every method for the FEI benchmarks, kept in files, so that a run that was stopped goes on where it was.

python -m benchmarks.fei_maps --images DIR --out DIR --network lite0 --methods rise,gradcam [--limit 48]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from benchmarks.fei_photographs import JUDGES, photographs
from benchmarks.peers.extremal_perturbation import extremal_perturbation
from benchmarks.peers.rise import rise
from xai_align import explain
from xai_align.explanation import takes_layer
from xai_align.pinet.readout import read_out

#: Where SqueezeNet is read out and cut for Grad-CAM: its last feature map, 13 x 13. (A network of timm is known.)
LAYERS = {"lite0": None, "squeezenet": "features"}
#: Cells of the last feature map.
CELLS = {"lite0": 7, "squeezenet": 13}


def smoothed(coarse: Tensor, cells: int) -> Tensor:
    """A map of flat squares, as coarse methods give it, faded from cell to cell: judged so, they do better."""
    size = coarse.shape[-1]
    centres = ((torch.arange(cells) + 0.5) * size / cells).long()
    flat = coarse[centres][:, centres]
    nearest = torch.arange(size) * cells // size
    if not torch.allclose(flat[nearest][:, nearest][centres], coarse[centres], rtol=1e-3):
        return coarse
    return nn.functional.interpolate(flat[None, None], (size, size), mode="bilinear")[0, 0]


def readout(model: nn.Module, x: Tensor, label: int, network: str) -> Tensor:
    """The exact readout at the last feature map."""
    return read_out(model, x, label, LAYERS[network]).map("smooth")[0].detach()


def by_name(method: str, model: nn.Module, x: Tensor, label: int, network: str) -> Tensor:
    """A registered method."""
    layer = LAYERS[network] if takes_layer(method) and method not in ("fei", "fei-nested") else None
    found = explain(model, x, label, method, layer=layer).map[0]
    return smoothed(found, CELLS[network])


#: Methods that are not registered.
OWN: dict[str, Callable[[nn.Module, Tensor, int, str], Tensor]] = {
    "readout": readout,
    "rise": lambda model, x, label, network: rise(model, x, label, autocast=torch.bfloat16),
    "extremal": lambda model, x, label, network: extremal_perturbation(model, x, label),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--network", choices=LAYERS, required=True)
    parser.add_argument("--methods", required=True)
    parser.add_argument("--limit", type=int, default=48)
    options = parser.parse_args()
    judged, _ = photographs(options.images)
    network = JUDGES[options.network]
    for method in options.methods.split(","):
        folder = options.out / network.name / method
        folder.mkdir(parents=True, exist_ok=True)
        spent = 0.0
        for photograph in judged[: options.limit]:
            file = folder / f"{photograph.name}.pt"
            if file.exists():
                continue
            x = network.view(photograph.pixels[None])
            start = perf_counter()
            if method in OWN:
                found = OWN[method](network.model, x, photograph.label, network.name)
            else:
                found = by_name(method, network.model, x, photograph.label, network.name)
            seconds = perf_counter() - start
            torch.save({"map": found.float(), "seconds": seconds}, file)
            spent += seconds
        print(f"{network.name} {method}: {spent:.1f} s", flush=True)


if __name__ == "__main__":
    main()
