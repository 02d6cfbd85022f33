"""Judge the maps of FEI and its peers on real photographs, with fills that the methods use and fills that they do not.

    export OMP_NUM_THREADS=1
    export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
    python -m benchmarks.fei.judge --images DIR --out DIR [--network lite0 squeezenet] [--methods a,b] [--table-only]
    python -m benchmarks.fei.judge --images DIR --out DIR --network vit --weights FILE [--on others]

Judges the maps that `python -m benchmarks.fei.maps` wrote to OUT, each once, and prints tables as Markdown;
`benchmarks.fei.verdicts` describes the measures. A stopped run resumes: a verdict is a file,
OUT/judged/NETWORK/METHOD/PHOTOGRAPH.json, and is valid until its map is rewritten.

With the last three variables glibc keeps freed memory, which is two to four times faster on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from time import time

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.fei import transformer
from benchmarks.fei.networks import NAMES, Network, network_of, photographs_for
from benchmarks.fei.verdicts import Verdict, judge
from benchmarks.shared.curves import OTHERS
from benchmarks.shared.intervals import plus_minus
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.photographs import JUDGED, Photograph
from benchmarks.shared.positive_integer import positive_integer
from xai_align.cli.terminal import progress_bar
from xai_align.comparison.store import write_whole

#: Methods that are judged before the others, which follow by name.
FIRST = ("readout", "gradcam", "rise", "layercam", "integrated_gradients", "occlusion", "random")
#: Number of maps of one method that are judged together.
AT_ONCE = 4

Verdicts = dict[str, Verdict]
Column = Callable[[Verdict], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, help="photographs with a labels.json")
    parser.add_argument("--out", required=True, type=Path, help="folder of the maps and the verdicts")
    parser.add_argument("--network", nargs="+", choices=NAMES, default=["lite0", "squeezenet"])
    parser.add_argument("--weights", type=Path, help="file of the transformer's weights")
    parser.add_argument(
        "--on", choices=("judged", "others"), default="judged", help="settings are chosen on the others"
    )
    parser.add_argument("--methods", help="names, separated by commas; default: all that have maps")
    parser.add_argument("--method", default="fei", help="the method that the others are compared with")
    parser.add_argument(
        "--limit", type=positive_integer, default=JUDGED, help="number of photographs whose maps are judged"
    )
    parser.add_argument("--table-only", action="store_true", help="judge nothing")
    options = parser.parse_args()
    for network in options.network:
        found = options.methods.split(",") if options.methods else with_maps(options.out / network)
        methods = sorted(found, key=lambda name: place(name, options.method))
        if not options.table_only:
            judged = photographs_for(network, options.images, options.on)
            judge_all(options.out, network_of(network, options.weights), methods, judged, options.limit)
        verdicts = {method: kept(options.out / "judged" / network / method) for method in methods}
        print(tables(network, {method: those for method, those in verdicts.items() if those}, options.method))


def with_maps(folder: Path) -> list[str]:
    return sorted({path.parent.name for path in folder.glob("*/*.pt")})


def place(method: str, subject: str) -> tuple[int, str]:
    """Return the position of a method in the queue."""
    order = (subject, *FIRST)
    return (order.index(method) if method in order else len(order), method)


def judge_all(out: Path, network: Network, methods: Sequence[str], judged: Sequence[Photograph], limit: int) -> None:
    """Judge what is not judged yet, a few maps of a method at a time."""
    waiting = {method: without_verdict(out, network.name, method, judged[:limit]) for method in methods}
    with progress_bar() as bar:
        task = bar.add_task(network.name, total=sum(map(len, waiting.values())))
        for method, numbers in waiting.items():
            for some in (numbers[first : first + AT_ONCE] for first in range(0, len(numbers), AT_ONCE)):
                bar.update(task, description=f"{network.name} {method}")
                judge_some(out, network, method, judged, some)
                bar.update(task, advance=len(some))


def without_verdict(out: Path, network: str, method: str, judged: Sequence[Photograph]) -> list[int]:
    """Return the indices of photographs that have a map and no verdict that is as recent."""

    def waits(photograph: Photograph) -> bool:
        drawn = out / network / method / f"{photograph.name}.pt"
        verdict = out / "judged" / network / method / f"{photograph.name}.json"
        return drawn.exists() and not (verdict.exists() and verdict.stat().st_mtime >= drawn.stat().st_mtime)

    return [i for i, photograph in enumerate(judged) if waits(photograph)]


def judge_some(out: Path, network: Network, method: str, judged: Sequence[Photograph], which: Sequence[int]) -> None:
    started = time()
    names = [judged[i].name for i in which]
    drawn = [torch.load(out / network.name / method / f"{name}.pt", weights_only=True) for name in names]
    maps, seconds = torch.stack([one["map"] for one in drawn]), [one["seconds"] for one in drawn]
    folder = out / "judged" / network.name / method
    folder.mkdir(parents=True, exist_ok=True)
    for name, verdict in zip(names, judge(network, judged, which, maps, seconds), strict=True):
        file = folder / f"{name}.json"
        write_whole(file, json.dumps(asdict(verdict)) + "\n")
        os.utime(file, (started, started))  # a map that was written in the meantime is newer


def kept(folder: Path) -> Verdicts:
    """Return the verdicts on a method's maps, by photograph."""
    return {path.stem: Verdict(**json.loads(path.read_text("utf-8"))) for path in sorted(folder.glob("*.json"))}


def differences(network: str) -> dict[str, Column]:
    """Return the columns in which more is better: insertion less deletion."""

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
        **{other: at(other) for other in OTHERS.get(network, ())},
        **({"drop": into("drop"), "SRG": lambda verdict: verdict.areas["SRG"]} if network == transformer.NAME else {}),
    }


def all_columns(network: str) -> dict[str, Column]:
    return {
        "insertion blur": lambda verdict: verdict.areas["insertion blur"],
        "deletion zero": lambda verdict: verdict.areas["deletion zero"],
        **differences(network),
        "deviation": lambda verdict: verdict.deviation,
        "deviation at half": lambda verdict: verdict.deviation_at_half,
        "cosine": lambda verdict: verdict.cosine,
    }


def tables(network: str, verdicts: dict[str, Verdicts], subject: str) -> str:
    lines = [f"\n## {network}\n", *overview(network, verdicts)]
    if subject not in verdicts:
        return "\n".join([*lines, f"\nNo map of {subject} is judged yet, so nothing is compared with it."])
    return "\n".join([*lines, *compared(network, verdicts, subject), *best_peers(network, verdicts, subject)])


def overview(network: str, verdicts: dict[str, Verdicts]) -> list[str]:
    """Return methods, best own score first, with mean and half the width of its 95 % interval over photographs."""
    columns = all_columns(network)
    rows = {method: numbers(those.values(), columns.values()) for method, those in verdicts.items()}
    own = list(columns).index("own")
    lines = [heading("method", "n", *columns, "s / map")]
    for method in sorted(rows, key=lambda name: -np.nanmean(rows[name][:, own])):
        seconds = np.median([verdict.seconds for verdict in verdicts[method].values()])
        lines.append(row(method, len(rows[method]), *plus_minus(rows[method]), f"{seconds:.2g}"))
    return lines


def compared(network: str, verdicts: dict[str, Verdicts], subject: str) -> list[str]:
    """Return the subject less each other method, on the photographs that both have."""
    lines = [f"\n{subject} less the others, paired\n", heading("less", "n", *differences(network))]
    for method in verdicts:
        if method != subject:
            gaps = paired(network, verdicts[subject], verdicts[method])
            lines.append(row(method, len(gaps), *plus_minus(gaps, sign="+")))
    return lines


def best_peers(network: str, verdicts: dict[str, Verdicts], subject: str) -> list[str]:
    """Return, for each column, the method that the subject beats by least on the photographs that both have.

    Methods whose names begin with the subject's are variants of it and not peers.
    """
    peers = [method for method in verdicts if not method.startswith(subject)]
    gaps = {method: paired(network, verdicts[subject], verdicts[method]) for method in peers}
    gaps = {method: those for method, those in gaps.items() if len(those)}
    lines = [f"\nThe best peer, and {subject} less it\n", heading("column", "best peer", "n", "difference")]
    for i, column in enumerate(differences(network)) if gaps else ():
        best = min(gaps, key=lambda method: np.nanmean(gaps[method][:, i]))
        lines.append(row(column, best, len(gaps[best]), *plus_minus(gaps[best][:, [i]], sign="+")))
    return lines


def paired(network: str, ours: Verdicts, theirs: Verdicts) -> NDArray[np.float64]:
    """Return differences ``[photographs, columns]`` on the photographs that both have."""
    both, columns = sorted(ours.keys() & theirs.keys()), differences(network).values()
    return numbers([ours[name] for name in both], columns) - numbers([theirs[name] for name in both], columns)


def numbers(verdicts: Iterable[Verdict], columns: Collection[Column]) -> NDArray[np.float64]:
    """Return scores ``[photographs, columns]``."""
    found = [[column(verdict) for column in columns] for verdict in verdicts]
    return np.array(found, dtype=np.float64).reshape(-1, len(columns))


if __name__ == "__main__":
    main()
