"""Share of a training's time that explanations of fixed pictures take, for methods of different cost.

    OMP_NUM_THREADS=1 python -m benchmarks.safety.watching_cost [--epochs 4] [--steps 15] [--pictures 8]

timm's resnet18 with random weights is trained on noise of 32 pixels, in batches of 16: without a log, and with one of
each method, called after every epoch and at the end. Files are written to a folder. The weights at the end are
compared, bit for bit. "Every epoch" is what the share would be if no call was skipped.
Takes about two minutes on one core.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from time import perf_counter
from typing import Any

import timm
import torch
from torch import Tensor, nn

from benchmarks.shared.markdown import heading, row
from xai_align.report.watching import ExplanationLog

SIZE, BATCH, CLASSES = 32, 16, 10
METHODS: dict[str, dict[str, Any]] = {
    "pinet": {},
    "pinet, layer head": {"layer": "head"},
    "layer_grad_cam": {},
}


def train(epochs: int, steps: int, log: ExplanationLog | None) -> tuple[dict[str, Tensor], float, int]:
    """The weights, the seconds, and how many calls were made."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    made, before = 0, perf_counter()
    if log is not None:
        log.start()
    for epoch in range(epochs):
        model.train()
        for _ in range(steps):
            optimizer.zero_grad()
            x, y = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(CLASSES, (BATCH,))
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        if log is not None:
            made += log.step(model, epoch) is not None
    if log is not None:
        made += log.finish(model, epochs) is not None
    return model.state_dict(), perf_counter() - before, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--pictures", type=int, default=8)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pictures = torch.randn(options.pictures, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    classes = [number % CLASSES for number in range(len(pictures))]
    train(1, 2, None)  # the first passes are slower
    plain, seconds, _ = train(options.epochs, options.steps, None)
    a_step = seconds / options.epochs / options.steps
    print(f"Without a log: {options.epochs} epochs of {options.steps} steps in {seconds:.1f} s.\n")
    columns = (
        "seconds of a call",
        "steps that take as long",
        "calls made",
        "share of time",
        "every epoch",
        "same weights",
    )
    print(heading("method", *columns))
    for name, more in METHODS.items():
        with tempfile.TemporaryDirectory() as folder:
            log = ExplanationLog(pictures, classes, method=name.split(",")[0], writer="folder", folder=folder, **more)
            weights, seconds, made = train(options.epochs, options.steps, log)
            share = log.share_of_time
        a_call, calls = share * seconds / made, options.epochs + 1
        without_skipping = calls * a_call / (seconds + (calls - made) * a_call)
        same = all(torch.equal(value, weights[key]) for key, value in plain.items())
        cells = (f"{a_call:.2f}", f"{a_call / a_step:.1f}", f"{made} of {calls}", f"{100 * share:.1f} %")
        print(row(name, *cells, f"{100 * without_skipping:.1f} %", "yes" if same else "**no**"), flush=True)


if __name__ == "__main__":
    main()
