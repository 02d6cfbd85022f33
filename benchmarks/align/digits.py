"""Train ALIGN on digits whose evidence is known: masks, CAMs, accuracy on other backgrounds, and the known limit.

    export OMP_NUM_THREADS=1
    export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
    python -m benchmarks.align.digits --digits mnist_12k.npz --out OUT --seeds 5
    python -m benchmarks.align.digits --digits mnist_12k.npz --out OUT --groups hue --methods erm align oracle inverse
    python -m benchmarks.align.digits --out OUT --report
    python -m benchmarks.align.digits --digits mnist_12k.npz --out OUT --sheet shift 0

Digits on textures (:mod:`benchmarks.align.digits_data`). Fits whose files exist are not repeated.

Takes 15 to 75 seconds a fit on one core.
"""

from __future__ import annotations

import argparse
from functools import cache, partial
from pathlib import Path

import torch

from benchmarks.align.digits_data import KINDS, domains, load_digits
from benchmarks.align.digits_fits import SCALES, keep_fit, methods
from benchmarks.align.digits_sheet import sheet
from benchmarks.align.digits_table import report
from benchmarks.shared.positive_integer import positive_integer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, help="an npz with train_images, train_labels, test_images, test_labels")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=positive_integer, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--groups", nargs="*", default=["shift"], choices=KINDS, help="kinds of data")
    parser.add_argument("--methods", nargs="*", default=list(methods()), choices=list(methods()))
    parser.add_argument("--report", action="store_true", help="print the tables of the existing fits")
    parser.add_argument("--sheet", nargs=2, metavar=("GROUP", "SEED"), help="draw images, CAMs and masks instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.sheet:
        group, seed = options.sheet
        print(sheet(options.out / group, domains(group, load_digits(options.digits), int(seed)), int(seed)))
    elif not options.report:
        fit_all(options)
    if not options.sheet:
        print(report(options.out))


def fit_all(options: argparse.Namespace) -> None:
    """Fit seed by seed, so that an interrupted run still has pairs."""
    digits = load_digits(options.digits)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for group in options.groups:
            data = cache(partial(domains, group, digits, seed))
            for name in options.methods:
                if keep_fit(options.out / group / name, methods()[name], data, seed, **SCALES.get(name, {})):
                    print(f"{group}, {name}, seed {seed}: done", flush=True)


if __name__ == "__main__":
    main()
