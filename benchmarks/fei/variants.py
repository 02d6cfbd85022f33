"""Table of variants of FEI on the photographs that all of them have: curves, unseen fills and hidden layers.

    python -m benchmarks.fei.variants --out OUT --network squeezenet --methods readout,fei-ibm,fei,fei-unpenalised

Reads the verdicts that `python -m benchmarks.fei.judge` wrote to OUT, and prints means as Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

from benchmarks.fei.judge import Column, kept
from benchmarks.shared.curves import OTHERS
from benchmarks.shared.markdown import row

COLUMNS: dict[str, Column] = {
    "insertion blur": lambda verdict: verdict.areas["insertion blur"],
    "own": lambda verdict: verdict.difference(insertion="blur", deletion="zero"),
    "photograph": lambda verdict: verdict.difference(insertion="photograph", deletion="photograph"),
    "ROAD": lambda verdict: verdict.difference(insertion="noisy_linear", deletion="noisy_linear"),
    "noise": lambda verdict: verdict.difference(insertion="noise", deletion="noise"),
    "deviation": lambda verdict: verdict.deviation,
    "deviation at half": lambda verdict: verdict.deviation_at_half,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--network", choices=OTHERS, required=True)
    parser.add_argument("--methods", required=True)
    options = parser.parse_args()
    verdicts = {name: kept(options.out / "judged" / options.network / name) for name in options.methods.split(",")}
    common = sorted(set.intersection(*(set(those) for those in verdicts.values())))
    print(f"{len(common)} photographs\n\n| | {' | '.join(COLUMNS)} |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name, those in verdicts.items():
        means = [fmean(column(those[photograph]) for photograph in common) for column in COLUMNS.values()]
        print(row(name, *(f"{mean:.3f}" for mean in means)))


if __name__ == "__main__":
    main()
