"""Measure deletion and Quantus's most similar metric, PixelFlipping, on the same maps.

    pip install quantus
    OMP_NUM_THREADS=2 python -m benchmarks.judging.quantus_speed

Both set the most relevant pixels to zero first, 1792 at a time. Quantus starts its curve after the first
step, so the areas are close but not equal.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.judging.images import lite0_and_images
from benchmarks.shared.measuring import timed
from benchmarks.shared.positive_integer import positive_integer
from xai_align import explain
from xai_align.evaluation import deletion


def main() -> None:
    warnings.filterwarnings("ignore")
    import quantus

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="*", type=Path, help="images or folders; default: the package's own")
    parser.add_argument("--limit", type=positive_integer, default=16)
    parser.add_argument(
        "--batch", type=positive_integer, nargs="+", default=[1, 8, 16], help="Quantus's batch sizes to try"
    )
    options = parser.parse_args()
    model, x, _ = lite0_and_images(options.images, options.limit)
    with torch.no_grad():
        target = model(x).argmax(1)
    maps = explain(model, x, target, "input_x_gradient").attribution
    deletion(model, x[:1], maps[:1])  # warm
    seconds, ours = timed(partial(deletion, model, x, maps, target=target))
    seconds /= len(x)
    summed = maps.sum(1, keepdim=True)
    arrays = {"model": model, "x_batch": x.numpy(), "y_batch": target.numpy(), "a_batch": summed.numpy()}
    print("| | seconds per image | times ours | mean area |\n|---|---|---|---|")
    print(f"| deletion | {seconds:.3f} | 1 | {ours.mean():.4f} |", flush=True)
    for batch in options.batch:
        metric = quantus.PixelFlipping(
            features_in_step=x[0, 0].numel() // 28,
            perturb_baseline=0.0,
            abs=False,
            normalise=False,
            disable_warnings=True,
            display_progressbar=False,
        )
        options_of_theirs = {"device": "cpu", "softmax": True, "batch_size": batch}
        theirs, curves = timed(partial(metric, **arrays, **options_of_theirs))
        theirs /= len(x)
        # Quantus's curves start after the first step
        area = np.mean([np.trapezoid(curve, dx=1 / len(curve)) for curve in curves])
        print(f"| PixelFlipping, batches of {batch} | {theirs:.3f} | {theirs / seconds:.1f} | {area:.4f} |", flush=True)


if __name__ == "__main__":
    main()
