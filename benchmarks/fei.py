"""FEI and its peers on real photographs: every map judged in ways that its method knows and in ways that it doesn't.

    export OMP_NUM_THREADS=1
    export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
    python -m benchmarks.fei --images DIR --out DIR [--network lite0 squeezenet] [--methods a,b] [--table-only]

Judges the maps that `python -m benchmarks.fei_maps` wrote to OUT, each once, and prints tables as Markdown;
`benchmarks.fei_judging` says what is judged and how. A run that was stopped goes on where it was: a verdict is a
file, OUT/judged/NETWORK/METHOD/PHOTOGRAPH.json, and counts until its map is written anew.

With the three variables glibc keeps memory that was freed, which is two to four times quicker on a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.fei_judging import OTHERS, Verdict, judge
from benchmarks.fei_photographs import Photograph, photographs
from xai_align.comparison.bootstrap import bootstrap_means
from xai_align.comparison.files import write_whole
from xai_align.terminal import progress_bar

#: Judged before the others, which go by name.
FIRST = ("readout", "gradcam", "rise", "layercam", "integrated_gradients", "occlusion", "random")
#: Maps of one method that are judged together.
AT_ONCE = 8

Verdicts = dict[str, Verdict]
Column = Callable[[Verdict], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, help="photographs with a labels.json")
    parser.add_argument("--out", required=True, type=Path, help="where the maps are, and the verdicts will be")
    parser.add_argument("--network", nargs="+", choices=OTHERS, default=list(OTHERS))
    parser.add_argument("--methods", help="names with commas; default: all that have maps")
    parser.add_argument("--method", default="fei", help="the one that the others are compared with")
    parser.add_argument("--table-only", action="store_true", help="judge nothing")
    options = parser.parse_args()
    judged = [] if options.table_only else photographs(options.images)[0]
    for network in options.network:
        found = options.methods.split(",") if options.methods else with_maps(options.out / network)
        methods = sorted(found, key=lambda name: place(name, options.method))
        if not options.table_only:
            judge_all(options.out, network, methods, judged)
        verdicts = {method: kept(options.out / "judged" / network / method) for method in methods}
        print(tables(network, {method: those for method, those in verdicts.items() if those}, options.method))


def with_maps(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/*.pt") if path.parent.is_dir())


def place(method: str, subject: str) -> tuple[int, str]:
    """Where a method stands in the queue."""
    order = (subject, *FIRST)
    return (order.index(method) if method in order else len(order), method)


def judge_all(out: Path, network: str, methods: Sequence[str], judged: Sequence[Photograph]) -> None:
    """Judge what is not judged yet, a few maps of a method at a time."""
    waiting = {method: without_verdict(out, network, method, judged) for method in methods}
    with progress_bar() as bar:
        task = bar.add_task(network, total=sum(map(len, waiting.values())))
        for method, numbers in waiting.items():
            for some in (numbers[first : first + AT_ONCE] for first in range(0, len(numbers), AT_ONCE)):
                bar.update(task, description=f"{network} {method}")
                judge_some(out, network, method, judged, some)
                bar.update(task, advance=len(some))


def without_verdict(out: Path, network: str, method: str, judged: Sequence[Photograph]) -> list[int]:
    """Numbers of the photographs that have a map and no verdict as new as it is."""

    def waits(photograph: Photograph) -> bool:
        drawn = out / network / method / f"{photograph.name}.pt"
        verdict = out / "judged" / network / method / f"{photograph.name}.json"
        return drawn.exists() and not (verdict.exists() and verdict.stat().st_mtime >= drawn.stat().st_mtime)

    return [i for i, photograph in enumerate(judged) if waits(photograph)]


def judge_some(out: Path, network: str, method: str, judged: Sequence[Photograph], which: Sequence[int]) -> None:
    names = [judged[i].name for i in which]
    drawn = [torch.load(out / network / method / f"{name}.pt", weights_only=True) for name in names]
    maps = torch.stack([one["map"] for one in drawn])
    folder = out / "judged" / network / method
    folder.mkdir(parents=True, exist_ok=True)
    for name, verdict in zip(
        names, judge(network, judged, which, maps, [one["seconds"] for one in drawn]), strict=True
    ):
        write_whole(folder / f"{name}.json", json.dumps(asdict(verdict)) + "\n")


def kept(folder: Path) -> Verdicts:
    """The verdicts on a method's maps, by photograph."""
    return {path.stem: Verdict(**json.loads(path.read_text("utf-8"))) for path in sorted(folder.glob("*.json"))}


def differences(network: str) -> dict[str, Column]:
    """Columns in which more is better: insertion less deletion."""

    def into(fill: str) -> Column:
        return lambda verdict: verdict.difference(insertion=fill, deletion=fill)

    def at(other: str | None) -> Column:
        return lambda verdict: verdict.difference(insertion="blur", deletion="zero", network=other)

    return {
        "own": at(None),
        "ROAD": into("noisy_linear"),
        "photograph": into("photograph"),
        "noise": into("noise"),
        "mean": into("mean"),
        **{other: at(other) for other in OTHERS[network]},
    }


def all_columns(network: str) -> dict[str, Column]:
    return {
        "insertion blur": lambda verdict: verdict.areas["insertion blur"],
        "deletion zero": lambda verdict: verdict.areas["deletion zero"],
        **differences(network),
        "deviation": lambda verdict: verdict.deviation,
        "deviation at half": lambda verdict: verdict.deviation_at_half,
    }
