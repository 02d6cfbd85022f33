"""Compare the default readout with other methods by the field's protocols, on four networks.

    python -m benchmarks.readout.protocols measure --network vit --images DIR --weights FILE --out OUT
    python -m benchmarks.readout.protocols measure --network lite0 --images DIR --out OUT    # lite1, squeezenet
    python -m benchmarks.readout.protocols table --network vit --out OUT

Settings were chosen on the photographs that are not judged (`--on others`). Maps are spread smoothly over the pixels,
coarse ones too. SRG: logit, fill with the image's mean, 8 steps, 16 x 16 patches of 14 pixels for the transformer and
14 x 14 patches for the others. GridPG: grids of 2 x 2 judged photographs, scaled down for the transformer, at twice the
size for the others. Single deletion: 4 x 4 patches. Positive mass: inside boxes drawn by hand (transformer alone).

RISE has 1,000 masks, a quarter of the published number, as it explains 112 pictures and grids for a network and more
for the transformer: about an hour on EfficientNet-Lite0, where 4,000 would take four. MDA, a search over the
transformer's patches in LeGrad's order, has the same number of passes, which allows 8 x 8 patches.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.mda import mda
from benchmarks.peers.rise import rise
from benchmarks.shared import photographs as of_imagenet
from benchmarks.shared import small_vit
from benchmarks.shared.coarse_maps import smoothed
from benchmarks.shared.intervals import plus_minus
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.measuring import timed
from benchmarks.shared.positive_integer import positive_integer
from xai_align import explain, read_out
from xai_align.comparison.store import write_whole
from xai_align.evaluation import (
    draw_grids,
    grid_pointing_game,
    pixel_boxes_to_masks,
    positive_mass,
    single_deletion,
    symmetric_relevance_gain,
)
from xai_align.pinet import ReadoutLayer

BATCH = 4
STEPS = 8
GRIDS = 16
#: Passes of RISE and MDA for a map.
PASSES = 1000
#: Function of a network, images and labels that returns maps ``[N, H, W]``.
Method = Callable[[nn.Module, Tensor, list[int]], Tensor]


def readout(model: nn.Module, x: Tensor, labels: list[int], layer: Any = None) -> Tensor:
    return read_out(model, x, labels, layer).map("smooth")


def by_name(name: str, model: nn.Module, x: Tensor, labels: list[int], **options: Any) -> Tensor:
    return explain(model, x, labels, name, **options).map


def grad_cam(model: nn.Module, x: Tensor, labels: list[int]) -> Tensor:
    """Return Grad-CAM spread smoothly, as its 32-pixel cells (16 of SqueezeNet) are flat squares otherwise."""
    maps = by_name("gradcam", model, x, labels)
    cells = read_out(model, x[:1], labels[:1], "head").contributions.shape[-1]
    return torch.stack([smoothed(one, cells) for one in maps])


def random(model: nn.Module, x: Tensor, labels: list[int]) -> Tensor:
    return torch.rand(len(x), *x.shape[-2:], generator=torch.Generator().manual_seed(labels[0]))


def by_rise(model: nn.Module, x: Tensor, labels: list[int]) -> Tensor:
    return torch.stack([rise(model, x[[i]], k, passes=PASSES) for i, k in enumerate(labels)])


def by_mda(model: nn.Module, x: Tensor, labels: list[int]) -> Tensor:
    priors = by_name("legrad", model, x, labels)
    found = [mda(model, x[[i]], k, prior=priors[i], passes=PASSES) for i, k in enumerate(labels)]
    return torch.stack(found)


COMMON: dict[str, Method] = {
    "random": random,
    "default": readout,
    "RISE": by_rise,
    "integrated gradients": partial(by_name, "integrated_gradients", n_steps=20),
}
METHODS: dict[str, dict[str, Method]] = {
    "vit": {
        **COMMON,
        "gates at the patch embedding (before)": partial(readout, layer="patch_embed.proj"),
        "AttnLRP": partial(by_name, "attn_lrp"),
        "Chefer": partial(by_name, "chefer"),
        "MDA": by_mda,
        "LeGrad": partial(by_name, "legrad"),
        "attention rollout": partial(by_name, "attention_rollout"),
        "Grad-CAM": partial(by_name, "gradcam"),
    },
    **{
        network: {
            **COMMON,
            "head's input": partial(readout, layer="head"),
            "gamma .25 and head's input (before)": partial(
                readout,
                layer=[
                    ReadoutLayer(feature_space=stage, rule="gamma", biases="placed"),
                    ReadoutLayer(feature_space="head"),
                ],
            ),
            "Grad-CAM": grad_cam,
        }
        for network, stage in (("lite0", "blocks.2"), ("lite1", "blocks.2"), ("squeezenet", "features.5"))
    },
}


def load(options: argparse.Namespace) -> tuple[nn.Module, small_vit.Photographs]:
    """Return the network, and the photographs in its size and units."""
    if options.network == "vit":
        judged, others = small_vit.photographs(options.images)
        return small_vit.small_vit(options.weights), judged if options.on == "judged" else others
    found, rest = of_imagenet.photographs(options.images)
    some = found if options.on == "judged" else rest
    judge = of_imagenet.JUDGES[options.network]
    images = judge.view(torch.stack([one.pixels for one in some]))
    return judge.model, small_vit.Photographs([one.name for one in some], images, [one.label for one in some])


def measure(options: argparse.Namespace) -> None:
    model, found = load(options)
    found = small_vit.Photographs(*(part[: options.limit] for part in found))
    grids = draw_grids(model, found.images, torch.tensor(found.labels), count=GRIDS)
    for name in options.methods or METHODS[options.network]:
        file = _file(options, name)
        if file.exists():
            continue
        seconds, numbers = timed(partial(_numbers, options, model, found, grids, METHODS[options.network][name]))
        write_whole(file, json.dumps(numbers))
        print(f"{options.network} {name}: {seconds:.0f} s", flush=True)


def _numbers(
    options: argparse.Namespace, model: nn.Module, found: small_vit.Photographs, grids: Any, method: Method
) -> dict[str, list[float]]:
    """Return each protocol's values, one for each photograph or grid."""
    transformer = options.network == "vit"
    maps = in_batches(method, model, found.images, found.labels)
    x, labels = found.images, torch.tensor(found.labels)
    patches = (16, 16) if transformer else (14, 14)
    numbers = {
        "SRG": symmetric_relevance_gain(model, x, maps, target=labels, grid=patches, num_steps=STEPS),
        "GridPG": grid_pointing_game(model, x, labels, method, grids=grids, scaled=transformer, internal_batch_size=4),
        "single deletion": single_deletion(model, x, maps, target=labels),
    }
    if transformer:
        with_boxes, boxes = small_vit.with_boxes(options.images)
        masks = pixel_boxes_to_masks([[box] for box in boxes], (224, 224))
        numbers["positive mass"] = positive_mass(in_batches(method, model, with_boxes.images, with_boxes.labels), masks)
    return {protocol: values.double().tolist() for protocol, values in numbers.items()}


def in_batches(method: Method, model: nn.Module, x: Tensor, labels: list[int]) -> Tensor:
    parts = [method(model, x[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, len(x), BATCH)]
    return torch.cat(parts).detach()


def print_table(options: argparse.Namespace) -> None:
    """Print each protocol's mean; in brackets the paired difference to the default and half of its 95 % interval."""
    default = json.loads(_file(options, "default").read_text())
    print(heading(f"{options.network}, {options.on}", *default))
    for name in METHODS[options.network]:
        if not _file(options, name).exists():
            continue
        numbers = json.loads(_file(options, name).read_text())
        cells = []
        for protocol, values in default.items():
            own, base = torch.tensor(numbers[protocol]), torch.tensor(values)
            gap = plus_minus((own - base).nan_to_num().double()[:, None].numpy(), sign="+")[0]
            cells.append(f"{float(own.nanmean()):.3f}" + ("" if name == "default" else f" ({gap})"))
        print(row(name, *cells))


def _file(options: argparse.Namespace, method: str) -> Path:
    folder: Path = options.out / options.on / options.network
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{method}.json"


JOBS = {"measure": measure, "table": print_table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--network", choices=METHODS, required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--weights", type=Path, help="file of the transformer's weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--on", choices=("judged", "others"), default="judged")
    parser.add_argument("--limit", type=positive_integer, default=None)
    parser.add_argument("--methods", type=lambda text: text.split(";"), default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    JOBS[options.job](options)


if __name__ == "__main__":
    main()
