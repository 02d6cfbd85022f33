"""Purity of channels before and after mixing on held-out pictures, and changes of logits and readout.

    python -m benchmarks.prototypes.purity --network lite0 --pictures pacs128 --out OUT
    python -m benchmarks.prototypes.purity --network vit --pictures photographs --weights vit_s14.safetensors --out OUT

lite0: EfficientNet-Lite0 with its 1000 classes at the head's input (1280 channels, 7 x 7), PACS at 224 px, 70 % of
every class in every domain to fit. vit: the ViT-S/14 of `benchmarks.shared.small_vit` at its last patch tokens (384
channels, 16 x 16), 70 % of its photographs to fit. The rest is held out: a channel's purity is the mean over its five
strongest held-out pictures. A stopped run resumes.

Takes about 2 minutes for vit; lite0 is several times that.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shared.intervals import from_to
from benchmarks.shared.pacs import Pacs, Pictures, load_pacs, stratified
from benchmarks.shared.positive_integer import positive_integer
from benchmarks.shared.small_vit import photographs, small_vit
from xai_align import read_out
from xai_align.prototypes import MixedNetwork, channel_purity, channel_shares, fit_prototypes
from xai_align.prototypes.feature_cache import gather_features, stacked
from xai_align.prototypes.layer_maps import LayerMaps, mixing_space

#: Pictures on which logits and readouts are compared.
COMPARED = 16


def pacs_on_lite0(options: argparse.Namespace) -> tuple[nn.Module, Any, Any]:
    """Return the network, the pictures of the fit, and those that are held out."""
    from timm_align.efficientnet_lite0 import load

    pacs = first_of_each(load_pacs(options.pictures), options.of_each)
    split = stratified(pacs, options.seed)
    model = load().model.requires_grad_(False)
    return model, Pictures(pacs, split.train), Pictures(pacs, torch.cat([split.validation, split.test]))


def first_of_each(pacs: Pacs, count: int) -> Pacs:
    """Return the first pictures of every class in every domain."""
    groups = pacs.domains * len(pacs.class_names) + pacs.labels
    kept = torch.cat([(groups == group).nonzero()[:count, 0] for group in groups.unique()])
    return replace(pacs, pixels=pacs.pixels[kept], labels=pacs.labels[kept], domains=pacs.domains[kept])


def photographs_on_vit(options: argparse.Namespace) -> tuple[nn.Module, Any, Any]:
    """Return the same for the ViT."""
    some, others = photographs(options.pictures)
    images = torch.cat([some.images, others.images])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(options.seed))
    cut = round(0.7 * len(images))
    return small_vit(options.weights), list(images[order[:cut]]), list(images[order[cut:]])


def held_out_purity(model: nn.Module, pictures: Any, matrix: Tensor, layer: str | None) -> tuple[Tensor, Tensor]:
    """Return the purity ``[D]`` without and with the matrix."""
    space = mixing_space(model, layer, stacked(pictures, [0]))
    features = gather_features(LayerMaps(model, space), pictures, memory=4, least=5)
    before, after = (channel_purity(features.maps, one, 5) for one in (torch.eye(len(matrix)), matrix))
    return before, after


def unchanged(model: nn.Module, images: Tensor, found: Any) -> dict[str, float]:
    """Return the relative differences of logits, of the shares' sum to the answer, and of the map, each the largest."""
    with torch.no_grad():
        logits, mixed = model(images), MixedNetwork(model, found, images)(images)
    asked = logits.argmax(1)
    shares = channel_shares(model, images, asked, found)
    space = mixing_space(model, found.layer, images[:1])
    readout = read_out(model, images, asked, space)
    cells = readout.contributions
    if cells.dim() == 3:
        cells = cells[:, space.patches(cells.shape[1])].transpose(1, 2).unflatten(2, found.grid)
    total = shares.shares.sum(1) + shares.prefix + shares.around + shares.bias

    def largest(a: Tensor, b: Tensor) -> float:
        return float((a - b).abs().max() / b.abs().max())

    strongest = shares.shares.sort(dim=1, descending=True).values
    return {
        "logits": largest(mixed, logits),
        "sum": largest(total, readout.answer),
        "map": largest(shares.contributions.sum(1), cells.sum(1)),
        "answer": float(readout.answer.mean()),
        "top4": float(strongest[:, :4].sum(1).mean()),
        "channels": float(shares.shares.sum(1).mean()),
        "negative": float(shares.shares.clamp_max(0).sum(1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["lite0", "vit"], required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="file of the ViT's weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--of-each", type=positive_integer, default=80, help="pictures of PACS for each class and domain"
    )
    parser.add_argument("--layer")
    parser.add_argument("--matrix", default="orthogonal")
    parser.add_argument("--solver")
    parser.add_argument("--rounds", type=positive_integer, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, to_fit, held_out = (pacs_on_lite0 if options.network == "lite0" else photographs_on_vit)(options)
    start = perf_counter()
    found = fit_prototypes(
        model, to_fit, options.layer, out=options.out, matrix=options.matrix, solver=options.solver,
        rounds=options.rounds, seed=options.seed,
    )  # fmt: skip
    seconds = perf_counter() - start
    before, after = held_out_purity(model, held_out, found.matrix, options.layer)
    numbers = {
        "layer": found.fingerprint["layer"],
        "pictures": [len(to_fit), len(held_out)],
        "seconds of this run": seconds,
        "fitted": [float(one) for one in found.purity.mean(1)],
        "held out": [float(before.mean()), float(after.mean())],
        "difference, over channels": from_to(after - before),
        "channels that became purer": float((after > before).float().mean()),
        "condition": found.condition,
        "history": found.history,
        "notes": found.notes,
        **unchanged(model, stacked(held_out, list(range(COMPARED))), found),
    }
    print(json.dumps(numbers, indent=1))
    (options.out / "purity.json").write_text(json.dumps(numbers, indent=1), "utf-8")


if __name__ == "__main__":
    main()
