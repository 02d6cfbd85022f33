"""Measure the cost of the default `fei` and of the published solver, by batch size, and the gain of compiling.

    OMP_NUM_THREADS=2 python -m benchmarks.fei.cost --images DIR [--network lite0]

Both solvers explain the same photographs in one process, one after the other. Peak memory is the increase of a
process's memory in three steps, measured in a separate process for each row. The solvers unwrap a compiled
network, since hidden layers cannot be watched and gradients not clipped inside a compiled graph; so the gain of
compiling is measured on a forward and backward pass alone.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shared.measuring import memory_mib, printed_by, timed
from benchmarks.shared.photographs import JUDGES, photographs
from benchmarks.shared.positive_integer import positive_integer
from xai_align.fei import optimize_masks

NESTED: dict[str, Any] = {"solver": "nested"}
#: ``(images, images at a time)`` of the rows of peak memory.
MEMORY = ((16, 1), (16, 4), (16, 16), (4, 4))


def seconds(model: nn.Module, x: Tensor, labels: list[int], **options: Any) -> float:
    return timed(partial(optimize_masks, model, x, labels, **options))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--network", default="lite0", choices=("lite0", "squeezenet"))
    parser.add_argument(
        "--peak", nargs=2, type=positive_integer, help="images and images at a time: print peak memory in MiB only"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    network = JUDGES[options.network]
    chosen = photographs(options.images)[0][:16]
    x = network.view(torch.stack([photograph.pixels for photograph in chosen]))
    labels = [photograph.label for photograph in chosen]
    if options.peak:
        count, size = options.peak
        with torch.no_grad():
            network.model(x[:1])
        before = memory_mib("VmHWM")
        optimize_masks(network.model, x[:count], labels[:count], internal_batch_size=size, n_iter=3)
        print(f"{memory_mib('VmHWM') - before:.0f}")
        return
    model = network.model
    seconds(model, x[:2], labels[:2], n_iter=2)
    for batch in (1, 4):
        ours = seconds(model, x[:batch], labels[:batch]) / batch
        theirs = seconds(model, x[:batch], labels[:batch], **NESTED) / batch
        print(f"batch {batch}: fei {ours:.2f} s an image, nested {theirs:.2f} s, {theirs / ours:.1f} times", flush=True)
    passes = optimize_masks(model, x[:1], labels[:1]).passes
    print(f"passes: {passes}; images a second at batch 1, 4, 16: ", end="")
    rates = [batch / seconds(model, x[:batch], labels[:batch], internal_batch_size=batch) for batch in (1, 4, 16)]
    print(", ".join(f"{rate:.2f}" for rate in rates), flush=True)
    for count, size in MEMORY:
        arguments = ("--images", options.images, "--network", network.name, "--peak", count, size)
        told = printed_by("benchmarks.fei.cost", *arguments).strip()
        print(f"{count} images, {size} at a time: {told} MiB", flush=True)
    print(f"a pass of 8 inputs: {1000 * a_pass(model, x[:8]):.0f} ms, ", end="", flush=True)
    print(f"compiled {1000 * a_pass(torch.compile(model), x[:8]):.0f} ms")


def a_pass(model: Any, x: Tensor, rounds: int = 5) -> float:
    """Return the median time of some forward and backward passes, after one that is not counted."""
    x = x.clone(memory_format=torch.channels_last).requires_grad_()
    times = [timed(lambda: torch.autograd.grad(model(x).sum(), x))[0] for _ in range(rounds + 1)]
    return median(times[1:])


if __name__ == "__main__":
    main()
