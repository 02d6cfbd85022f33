"""Compare insertion, deletion and hidden-layer measures with a plain loop of their published definitions.

    OMP_NUM_THREADS=2 python -m benchmarks.judging.curve_agreement

Real photographs, EfficientNet-Lite0. The loop builds every image separately
from a list of pixels, as RISE's and FEI's evaluations do, and is independent of
the engine. In float64 the difference is rounding; in float32 it is the
network's rounding, which depends on batch and memory layout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.judging.images import lite0_and_images
from benchmarks.shared.positive_integer import positive_integer
from xai_align import explain
from xai_align.evaluation import deletion, hidden_activations, insertion

STEPS = 28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="*", type=Path, help="images or folders; default: the package's own")
    parser.add_argument("--limit", type=positive_integer, default=4)
    options = parser.parse_args()
    lite0, x, _ = lite0_and_images(options.images, options.limit)
    print("| | images | map | largest difference |\n|---|---|---|---|")
    for dtype in (torch.float64, torch.float32):
        model, inputs = lite0.to(dtype), x.to(dtype)
        target = model(inputs).argmax(1)
        for method in ("pinet", "input_x_gradient"):
            attribution = explain(
                model, inputs, target, method, layer="input" if method == "pinet" else None
            ).attribution
            cells = f"{len(x)} | {method}"
            for name, ours in (("insertion", insertion), ("deletion", deletion)):
                theirs = by_loop(model, inputs, attribution.sum(1), target, name)
                gap = (ours(model, inputs, attribution, target=target) - theirs).abs().max()
                print(f"| {name}, {str(dtype).removeprefix('torch.')} | {cells} | {gap:.1e} |", flush=True)
        measured = hidden_activations(model, inputs[:1], attribution[:1], target=target[:1], layers=["blocks.4"])
        gap = abs(measured.measures["relative"][0, 0, 0] - deviation_by_loop(model, inputs[0], attribution[0].sum(0)))
        print(f"| relative deviation of blocks.4, {str(dtype).removeprefix('torch.')} | 1 | {method} | {gap:.1e} |")


def by_loop(model: nn.Module, inputs: Tensor, maps: Tensor, target: Tensor, game: str) -> Tensor:
    """Return RISE's curves by a loop: Petsiuk et al. 2018, section 4.2 and the authors' evaluation."""
    areas = []
    for image, scores, index in zip(inputs, maps, target, strict=True):
        best_first = np.argsort(-scores.numpy().ravel(), kind="stable")
        start, finish = (blurred(image), image) if game == "insertion" else (image, torch.zeros_like(image))
        shown, p, size = start.clone(), [], len(best_first) // STEPS
        for step in range(STEPS + 1):
            with torch.no_grad():
                p.append(model(shown[None]).softmax(1)[0, index].item())
            now = best_first[step * size : (step + 1) * size]
            shown.view(3, -1)[:, now] = finish.reshape(3, -1)[:, now]
        areas.append((sum(p) - p[0] / 2 - p[-1] / 2) / STEPS)
    return torch.tensor(areas)


def deviation_by_loop(model: nn.Module, image: Tensor, scores: Tensor) -> float:
    """Return the deviation of FEI's evaluation: 29 images, one layer; relative to the layer's own size."""
    best_first = np.argsort(-scores.numpy().ravel(), kind="stable")
    kept: list[Tensor] = []
    handle = model.get_submodule("blocks.4").register_forward_hook(lambda module, args, out: kept.append(out.clone()))
    size = len(best_first) // STEPS
    for step in range(STEPS + 1):
        shown = image.clone()
        shown.view(3, -1)[:, best_first[: step * size]] = 0
        with torch.no_grad():
            model(shown[None])
    handle.remove()
    return float(np.mean([((one - kept[0]) ** 2).sum().item() / (kept[0] ** 2).sum().item() for one in kept]))


def blurred(image: Tensor) -> Tensor:
    """Blur by an 11 x 11 kernel: a unit impulse filtered with sigma 5; zeros beyond the border."""
    from scipy.ndimage import gaussian_filter

    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    kernel = torch.from_numpy(gaussian_filter(impulse, 5)).to(image)
    return nn.functional.conv2d(image[:, None], kernel[None, None], padding=5)[:, 0]


if __name__ == "__main__":
    main()
