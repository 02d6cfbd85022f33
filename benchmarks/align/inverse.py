"""Test whether a wrong mask helps: the CAM loss alone, with true, inverse and full masks, in two ways of training.

    python -m benchmarks.align.inverse --digits mnist_12k.npz --out OUT --seeds 3

``constant``: a constant learning rate for 8 epochs and the last weights. ``decaying``: a cosine for 12 epochs and the
best validation. In both, the CAM is resized to the mask, gradients go through its channel weights, and there is no
other regulariser. If a mask of ones has the same effect as the inverse mask, the position of the mask does not matter.
"""

from __future__ import annotations

import argparse
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.align.digits_data import domains, load_digits
from benchmarks.align.digits_fits import Everywhere, keep_fit
from benchmarks.align.digits_table import fits_of, paired, table
from benchmarks.shared.positive_integer import positive_integer
from xai_align.align import Recipe, recipe
from xai_align.align.recipes import aligned_to

TRAINING: dict[str, dict[str, Any]] = {
    "constant": {"schedule": "none", "keep": "last", "epochs": 8},
    "decaying": {"schedule": "cosine", "keep": "best", "epochs": 12},
}


def methods() -> dict[str, Recipe]:
    """Methods that differ in the mask; everything but classification and alignment is left out."""
    common: dict[str, Any] = {"mixup": 0.0, "alignment_options": {"meet": "cam_up"}}
    found = {name: recipe(name, **common) for name in ("oracle", "inverse")}
    return {"erm": recipe("erm")} | found | {"everywhere": aligned_to("everywhere", Everywhere(), **common)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=positive_integer, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = load_digits(options.digits)
    for seed in range(options.seeds):
        data = cache(partial(domains, "shift", digits, seed))
        for training, how in TRAINING.items():
            for name, method in methods().items():
                if keep_fit(options.out / training / name, method, data, seed, order="second", **how):
                    print(f"{training}, {name}, seed {seed}: done", flush=True)
    for training in TRAINING:
        fits = {name: fits_of(options.out / training / name) for name in methods()}
        print(f"\n{training}\n\n{table(fits)}\n\n{paired(fits, 'erm')}")


if __name__ == "__main__":
    main()
