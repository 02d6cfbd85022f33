"""Compare ROAD with pytorch-grad-cam's: scores and seconds.

    OMP_NUM_THREADS=2 python -m benchmarks.judging.road
    OMP_NUM_THREADS=2 python -m benchmarks.judging.road --images folder --limit 20

EfficientNet-Lite0 at 224 px, the probability of the predicted class, one image
at a time, for a smooth map (Grad-CAM) and a pixel-fine one without ties.

Two differences are by design and are kept: pytorch-grad-cam cuts at
``np.percentile`` with a strict ``<``, xai-align removes exactly
``floor(fraction * P)`` pixels by stable ranks. The noise of both is disabled
for the figures, because pytorch-grad-cam draws it from the global random numbers,
so that it differs between calls; ``--noise`` enables it.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.metrics import road as theirs
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)
from torch import Tensor, nn

from benchmarks.judging.images import lite0_and_images
from benchmarks.shared.markdown import heading
from benchmarks.shared.measuring import timed
from benchmarks.shared.positive_integer import positive_integer
from xai_align.data.photographs import PHOTOGRAPHS
from xai_align.evaluation.faithfulness import road_metric
from xai_align.perturbation.curve import perturbation_curves
from xai_align.perturbation.noisy_linear import NoisyLinear

PERCENTILES = tuple(range(10, 100, 10))
SHARES = tuple(percentile / 100 for percentile in PERCENTILES)


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=Path, default=[PHOTOGRAPHS[0].path.parent])
    parser.add_argument("--limit", type=positive_integer, default=None, help="number of images")
    parser.add_argument(
        "--repetitions", type=positive_integer, default=2, help="number of timings, of which the best is reported"
    )
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation, on both sides")
    options = parser.parse_args()
    model, inputs, paths = lite0_and_images(options.images, options.limit)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(paths)} images, noise {options.noise:g}\n"
    )

    columns = ("map", "image", "score", "theirs", "ours", "difference", "seconds theirs", "seconds ours", "ratio")
    print(heading(*columns))
    gaps: dict[str, float] = {}
    ratios: list[float] = []
    for path, x in zip(paths, inputs.split(1), strict=True):
        with torch.no_grad():
            target = int(model(x).argmax())
        for name, scores in maps(model, x, target).items():
            arguments = (model, x, scores, target, options.noise)
            their_time, their_scores = best_of(options.repetitions, road_theirs, *arguments)
            our_time, our_scores = best_of(options.repetitions, road_ours, *arguments)
            ratios.append(their_time / our_time)
            for score, one in their_scores.items():
                gap = our_scores[score] - one
                gaps[score] = max(gaps.get(score, 0.0), abs(gap))
                times = f"{their_time:.2f} | {our_time:.3f} | {ratios[-1]:.1f}" if score == "combined" else " | | "
                row = (
                    f"| {name} | {path.stem} | {score} | {one:+.5f} | {our_scores[score]:+.5f} | {gap:+.1e} | {times} |"
                )
                print(row, flush=True)
    print("\nlargest difference: " + ", ".join(f"{score} {gap:.1e}" for score, gap in gaps.items()))
    print(f"speed, theirs over ours: median {statistics.median(ratios):.1f}, lowest {min(ratios):.1f}")


def maps(model: nn.Module, x: Tensor, target: int) -> dict[str, Tensor]:
    """Return a smooth map and a pixel-fine one, ``[1, H, W]`` in [0, 1]."""
    with GradCAM(model, [model.bn2]) as cam:
        smooth = torch.from_numpy(cam(input_tensor=x, targets=[ClassifierOutputTarget(target)]))
    rough = torch.randn(1, *x.shape[2:], generator=torch.Generator().manual_seed(0))
    return {"Grad-CAM": without_ties(smooth), "pixel-fine": without_ties(nn.functional.avg_pool2d(rough, 5, 1, 2))}


def without_ties(scores: Tensor) -> Tensor:
    """Return the ranks of the scores, the first of equal ones highest; ROAD depends on the ranks only."""
    order = scores.flatten().argsort(descending=True, stable=True)
    ranks = torch.empty(len(order), dtype=torch.float64)
    ranks[order] = torch.linspace(1, 0, len(order), dtype=torch.float64)
    return ranks.reshape(scores.shape)


def best_of(
    repetitions: int, run: Callable[..., dict[str, float]], *arguments: object
) -> tuple[float, dict[str, float]]:
    """Return the shortest time of some runs in seconds, and the result of the last."""
    runs = [timed(partial(run, *arguments)) for _ in range(repetitions)]
    return min(seconds for seconds, _ in runs), runs[-1][1]


@contextmanager
def their_noise(noise: float) -> Iterator[None]:
    """Set the noise of pytorch-grad-cam's imputer, which its metrics build without an option for it."""
    usual = theirs.NoisyLinearImputer.__init__
    theirs.NoisyLinearImputer.__init__ = lambda self: usual(self, noise=noise)
    try:
        yield
    finally:
        theirs.NoisyLinearImputer.__init__ = usual


def road_theirs(model: nn.Module, x: Tensor, scores: Tensor, target: int, noise: float) -> dict[str, float]:
    """Return the changes of the probability by the two halves of ``ROADCombined``, which are all that it computes."""
    targets = [ClassifierOutputSoftmaxTarget(target)]
    with their_noise(noise):
        metric = theirs.ROADCombined(PERCENTILES)
        least = float(metric.lerf_averager(x, scores.numpy(), targets, model)[0])
        most = float(metric.morf_averager(x, scores.numpy(), targets, model)[0])
    return {"most relevant first": most, "least relevant first": least, "combined": (least - most) / 2}


def road_ours(model: nn.Module, x: Tensor, scores: Tensor, target: int, noise: float) -> dict[str, float]:
    """Compute ``road(model, x, scores, target=target, bins=SHARES)`` and keep its two curves."""
    metric = road_metric(bins=SHARES, baselines=NoisyLinear(noise))
    curves = perturbation_curves(model, x, scores, metric.specs)
    most, least = (float((curve.masked[0, :, target] - curve.clean[0, target]).mean()) for curve in curves)
    combined = float(metric.score(curves, target))
    return {"most relevant first": most, "least relevant first": least, "combined": combined}


if __name__ == "__main__":
    main()
