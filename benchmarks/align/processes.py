"""Compare ALIGN trained by one process and by two that share each batch of the loader.

    OMP_NUM_THREADS=1 python -m benchmarks.align.processes [--pictures 203] [--epochs 4]

The classes are a horizontal bar, a vertical bar and a square, in noise; the classifier has two convolutions, the
masker is the library's own. An epoch of warm-up, one of the masker alone, then both alternately, on the CPU (gloo).
Three recipes with group norms, which do not depend on the batch; ALIGN in double precision, which shows that
differences are rounding; and ALIGN with batch norms, whose statistics are those of each process's half of a batch. The
same loader in all processes, batches of 32; the last step of an epoch is smaller, and its halves unequal. The table
has the largest relative difference between the epochs' losses (of classifier, masker and validation) and means of
masks, and between the weights at the end (as a share of their norm).
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.shared.markdown import heading, row
from benchmarks.shared.positive_integer import positive_integer
from benchmarks.shared.processes import ends, in_processes, largest_difference, print_once
from xai_align.align import AlignTrainer, Masker, Recipe

KINDS = ("align", "align, double", "dre", "aim", "align, batch norms")
COMPARED = ("loss", "masker_loss", "validation_loss", "mask_mean")
SIZE = 24
EXPERIMENTS = Path(__file__).parents[2] / "examples" / "plugin_align_experiments" / "src"


def bars(count: int, seed: int) -> TensorDataset:
    """Return pictures ``[N, 1, 24, 24]`` and their classes."""
    dice = torch.Generator().manual_seed(seed)
    images, labels = torch.rand(count, 1, SIZE, SIZE, generator=dice) * 0.6, torch.arange(count) % 3
    for i, (top, left) in enumerate(torch.randint(0, SIZE - 12, (count, 2), generator=dice).tolist()):
        height, width = ((4, 12), (12, 4), (7, 7))[i % 3]
        images[i, 0, top : top + height, left : left + width] = 1
    return TensorDataset(images - 0.4, labels)


class Small(nn.Module):
    def __init__(self, norm: str) -> None:
        super().__init__()
        first, second = (nn.BatchNorm2d(16), nn.BatchNorm2d(32)) if norm == "batch" else (
            nn.GroupNorm(4, 16), nn.GroupNorm(4, 32))  # fmt: skip
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), first, nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), second, nn.ReLU(inplace=True),
        )  # fmt: skip
        self.fc = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def training_recipe(name: str) -> str | Recipe:
    """Return the recipe of this name; ``aim`` is in an example package, which need not be installed."""
    if name != "aim":
        return name
    if not EXPERIMENTS.is_dir():
        raise SystemExit(f"the recipe 'aim' is in {EXPERIMENTS}, which is missing; run this in a complete checkout")
    sys.path.insert(0, str(EXPERIMENTS))
    from xai_align_experiments.recipes import aim

    return aim()


def fit(kind: str, pictures: int, epochs: int) -> dict[str, object]:
    torch.manual_seed(0)
    recipe, _, special = kind.partition(", ")
    dtype = torch.float64 if special == "double" else torch.float32
    trainer = AlignTrainer(
        Small("batch" if special == "batch norms" else "group").to(dtype),
        Masker(1, width=8).to(dtype) if recipe != "dre" else None,
        recipe=training_recipe(recipe),
        warmup_epochs=1,
        masker_only_epochs=1,
        learning_rate=5e-3,
        schedule="cosine",
    )
    began = time.monotonic()
    train = DataLoader(bars(pictures, 0), batch_size=32, shuffle=True)
    done = trainer.fit(train, DataLoader(bars(90, 1), batch_size=90), epochs=epochs)
    networks = [network for network in (done.classifier, done.masker) if network is not None]
    weights = [value for network in networks for p in network.parameters() for value in p.flatten().tolist()]
    return {"rows": done.history, "weights": weights, "seconds": time.monotonic() - began}


def distance(one: list[float], two: list[float]) -> float:
    """Return the difference of weights as a share of their norm."""
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (one, two))
    return float((a - b).norm() / a.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=positive_integer, default=203)
    parser.add_argument("--epochs", type=positive_integer, default=4)
    parser.add_argument("--one", choices=KINDS, help="fit this kind in this process")
    options = parser.parse_args()
    if options.one:
        warnings.simplefilter("ignore")
        print_once(fit(options.one, options.pictures, options.epochs))
        return
    columns = ("steps", "last loss, one / two", "largest relative difference", "of weights", "seconds, one / two")
    print(heading("recipe", *columns))
    length = ("--pictures", options.pictures, "--epochs", options.epochs)
    for kind in KINDS:
        one, two = (in_processes(n, "benchmarks.align.processes", "--one", kind, *length) for n in (1, 2))
        losses, seconds = ends((one, two))
        difference = largest_difference(one["rows"], two["rows"], COMPARED)
        steps, apart = one["rows"][-1]["step"], distance(one["weights"], two["weights"])
        print(row(kind, steps, losses, f"{difference:.1e}", f"{apart:.1e}", seconds), flush=True)


if __name__ == "__main__":
    main()
