"""Measure one fused pass of judging and straightforward loops that give the same numbers.

    OMP_NUM_THREADS=2 python -m benchmarks.judging.curve_speed --images DIR

{insertion, deletion} x {zero, blur, noise}, 28 steps each, and the pathway
measures of five stages, for 32 images and EfficientNet-Lite0.

* fused: ``hidden_activations``, every perturbed image once
* loop, all layers: for each image and each series one batch of its 29 images
  for the probabilities; then again for the hidden layers, all five hooked
* loop, layer by layer: the layers one by one, as in FEI's published evaluation

The loops' batches are of one image's 29 steps. ``--loop-batch`` sets other sizes.

Takes about six minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.judging.images import lite0_and_images
from benchmarks.shared.markdown import row
from benchmarks.shared.measuring import timed
from benchmarks.shared.positive_integer import positive_integer
from xai_align import explain
from xai_align.evaluation import hidden_activations
from xai_align.features.hidden_layers import MEASURES, deviations
from xai_align.perturbation.fills import FILLS
from xai_align.plugins import stages

STEPS = 28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, nargs="+", type=Path)
    parser.add_argument("--limit", type=positive_integer, default=32)
    parser.add_argument("--loop-batch", type=positive_integer, default=STEPS + 1)
    options = parser.parse_args()
    model, x, _ = lite0_and_images(options.images, options.limit)
    target = model(x[:1]).argmax(1)  # warm
    with torch.no_grad():
        target = torch.cat([model(part).argmax(1) for part in x.split(8)])
    maps = explain(model, x, target, "input_x_gradient").attribution
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(x)} images of 224 px")

    fused, report = timed(lambda: hidden_activations(model, x, maps, target=target))
    batch, names, few = options.loop_batch, stages(model), min(2, len(x))

    def loop(names: tuple[str, ...], count: int) -> Tensor:
        pairs = zip(x[:count], maps[:count], strict=True)
        return torch.stack([layers_by_loop(model, *one, names, batch) for one in pairs])

    probabilities, areas = timed(
        lambda: torch.stack([areas_by_loop(model, *one, batch) for one in zip(x, maps, target, strict=True)])
    )
    all_layers, hidden = timed(lambda: loop(names, len(x)))
    seconds, _ = timed(lambda: [loop((name,), few) for name in names])
    by_layer = seconds * len(x) / few

    ours = torch.stack([report.measures[measure] for measure in MEASURES], -1)  # [N, 6 series, L, 6 measures]
    means = [MEASURES.index(measure) for measure in ("mse", "relative", "cosine")]
    print(f"largest difference of areas: {(report.areas - areas).abs().max():.1e}")
    gap = (ours[..., means] - hidden[..., means]).abs() / hidden[..., means].abs()
    print(f"largest relative difference of layer means: {gap.max():.1e}")
    print("\n| | seconds | times the fused pass |\n|---|---|---|")
    print(row("fused pass", f"{fused:.1f}", 1))
    for name, seconds in {
        "loop, all layers at once": probabilities + all_layers,
        f"loop, layer by layer ({few} images, scaled)": probabilities + by_layer,
        "loop, probabilities alone": probabilities,
    }.items():
        print(row(name, f"{seconds:.1f}", f"{seconds / fused:.1f}"))


def series_of(image: Tensor, scores: Tensor) -> list[Tensor]:
    """Return six batches of 29 images: deletion, then insertion read backwards, into zero, blur and noise."""
    order = torch.argsort(scores.flatten(), descending=True, stable=True)
    batches = []
    for best_first in (True, False):
        for fill in ("zero", "blur", "noise"):
            kind = FILLS[fill]()
            filled = torch.zeros_like(image) if fill == "zero" else kind(image[None])[0]
            shown = image.repeat(STEPS + 1, 1, 1, 1)
            for step in range(STEPS + 1):
                count = step * len(order) // STEPS
                gone = order[:count] if best_first else order[len(order) - count :]
                shown[step].view(3, -1)[:, gone] = filled.reshape(3, -1)[:, gone]
            batches.append(shown)
    return batches


@torch.no_grad()
def areas_by_loop(model: nn.Module, image: Tensor, attribution: Tensor, index: Tensor, batch: int) -> Tensor:
    areas = []
    for shown in series_of(image, attribution.sum(0)):
        p = torch.cat([model(part).softmax(1)[:, index] for part in shown.split(batch)])
        areas.append((p.sum() - p[0] / 2 - p[-1] / 2) / STEPS)
    return torch.stack(areas)


@torch.no_grad()
def layers_by_loop(model: nn.Module, image: Tensor, attribution: Tensor, names: tuple[str, ...], batch: int) -> Tensor:
    """Return measures ``[6 series, layers, 6 measures]``, means over the steps."""
    rows = []
    for shown in series_of(image, attribution.sum(0)):
        kept: dict[str, list[Tensor]] = {name: [] for name in names}
        handles = [model.get_submodule(name).register_forward_hook(keeper(kept[name])) for name in names]
        for part in shown.split(batch):
            model(part)
        for handle in handles:
            handle.remove()
        outs = [torch.cat(kept[name]) for name in names]
        rows.append(torch.stack([deviations(out[:1].expand_as(out), out).mean(0) for out in outs]))
    return torch.stack(rows)


def keeper(kept: list[Tensor]) -> Callable[..., None]:
    return lambda module, args, out: kept.append(out.clone())


if __name__ == "__main__":
    main()
