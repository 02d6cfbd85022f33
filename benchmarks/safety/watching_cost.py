"""Share of training time taken by explanations of fixed pictures, for methods of different cost.

    OMP_NUM_THREADS=1 python -m benchmarks.safety.watching_cost [--epochs 4] [--steps 60] [--pictures 8]

timm's resnet18 with random weights is trained on noise of 32 pixels, in batches of 16: without a log, and with one of
each method, called after every epoch and at the end. Files are written to a folder. The weights at the end are
compared, bit for bit. A call is timed separately, for all pictures; "every epoch" is the share of time if every call
were made. Takes about two minutes on one core.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from functools import partial
from time import perf_counter
from typing import Any

import timm
import torch
from torch import nn

from benchmarks.shared.markdown import heading, row
from benchmarks.shared.positive_integer import positive_integer
from xai_align.report.watching import ExplanationLog

SIZE, BATCH, CLASSES = 32, 16, 10
METHODS: dict[str, dict[str, Any]] = {
    "pinet": {},
    "pinet, layer head": {"layer": "head"},
    "layer_grad_cam": {},
}


def train(epochs: int, steps: int, log: ExplanationLog | None) -> tuple[nn.Module, float, int]:
    """Return the network, the seconds, and the number of explained pictures."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    explained, before = 0, perf_counter()
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
            explained += len(log.step(model, epoch) or ())
    if log is not None:
        explained += len(log.finish(model, epochs) or ())
    return model, perf_counter() - before, explained


def seconds_of_a_call(log: ExplanationLog, model: nn.Module) -> float:
    """Return the shortest time of three calls, the first of which opens the writer and finds the layers."""
    log.start()
    found = []
    for number in range(3):
        before = perf_counter()
        log.step(model, number)
        found.append(perf_counter() - before)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive_integer, default=4)
    parser.add_argument("--steps", type=positive_integer, default=60)
    parser.add_argument("--pictures", type=positive_integer, default=8)
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
        "pictures explained",
        "share of time",
        "every epoch",
        "same weights",
    )
    print(heading("method", *columns))
    all_pictures = len(pictures) * (options.epochs + 1)
    for name, more in METHODS.items():
        method = partial(ExplanationLog, pictures, classes, method=name.split(",")[0], writer="folder", **more)
        with tempfile.TemporaryDirectory() as folder:
            a_call = seconds_of_a_call(method(folder=folder, share=1.0), plain)
        with tempfile.TemporaryDirectory() as folder:
            log = method(folder=folder)
            model, _, explained = train(options.epochs, options.steps, log)
            share = log.share_of_time
        without_skipping = (options.epochs + 1) * a_call / (seconds + (options.epochs + 1) * a_call)
        weights = model.state_dict()
        same = all(torch.equal(value, weights[key]) for key, value in plain.state_dict().items())
        cells = (f"{a_call:.2f}", f"{a_call / a_step:.1f}", f"{explained} of {all_pictures}", f"{100 * share:.1f} %")
        print(row(name, *cells, f"{100 * without_skipping:.1f} %", "yes" if same else "**no**"), flush=True)


if __name__ == "__main__":
    main()
