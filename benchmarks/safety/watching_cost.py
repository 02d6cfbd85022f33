"""Share of a training's time that explanations of fixed pictures take, for methods of different cost.

    OMP_NUM_THREADS=1 python -m benchmarks.safety.watching_cost [--epochs 6] [--steps 12] [--pictures 8]

timm's resnet18 with random weights is trained on noise of 64 pixels, in batches of 16: without a log, and with one of
each method, called after every epoch and at the end. Files are written to a folder. The weights at the end are
compared, bit for bit.
Takes about four minutes on one core.
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

METHODS: dict[str, dict[str, Any]] = {
    "pinet": {},
    "pinet at the input": {"layer": "input"},
    "layer_grad_cam": {},
    "integrated_gradients": {"n_steps": 50},
}


def train(epochs: int, steps: int, log: ExplanationLog | None) -> tuple[dict[str, Tensor], float, int]:
    """The weights, the seconds, and how many calls were made."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    made, before = 0, perf_counter()
    if log is not None:
        log.start()
    for epoch in range(epochs):
        model.train()
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(16, 3, 64, 64)), torch.randint(10, (16,))).backward()
            optimizer.step()
        if log is not None:
            made += log.step(model, epoch) is not None
    if log is not None:
        made += log.finish(model, epochs) is not None
    return model.state_dict(), perf_counter() - before, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--pictures", type=int, default=8)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pictures = torch.randn(options.pictures, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    classes = [number % 10 for number in range(len(pictures))]
    train(1, 2, None)  # the first passes are slower
    plain, seconds, _ = train(options.epochs, options.steps, None)
    print(f"Without a log: {options.epochs} epochs in {seconds:.1f} s.\n")
    columns = ("seconds of a call", "calls made", "share of time", "share if all are made", "same weights")
    print(heading("method", *columns))
    for name, more in METHODS.items():
        cells: list[Any] = []
        same = True
        for share in (0.02, 1.0):
            with tempfile.TemporaryDirectory() as folder:
                log = ExplanationLog(
                    pictures, classes, method=name.split()[0], writer="folder", folder=folder, share=share, **more
                )
                weights, seconds, made = train(options.epochs, options.steps, log)
                spent = log.share_of_time
            same &= all(torch.equal(value, weights[key]) for key, value in plain.items())
            if share < 1:
                cells += [f"{spent * seconds / made:.2f}", f"{made} of {options.epochs + 1}"]
            cells.append(f"{100 * spent:.1f} %")
        print(row(name, *cells, "yes" if same else "**no**"), flush=True)


if __name__ == "__main__":
    main()
