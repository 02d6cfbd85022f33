"""Tables of the ToyShapes benchmark, from the files of its fits."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.shared.markdown import heading, row
from benchmarks.toyshapes.groups import GROUPS, LEAST_ACCURACY

#: Medians of the paper's 30 fits: accuracy, naive, optimal, accuracy on pi~ x (divided by the test set's maximum).
PAPER: dict[str, tuple[float, float, float, float]] = {
    "cnn, grad-cam": (0.998, 0.359, 0.943, 0.772),
    "naive": (0.990, 0.039, 0.394, 0.364),
    "soft": (0.999, 0.565, 0.887, 0.849),
    "default": (1.000, 0.722, 0.914, 0.930),
    "feedback": (1.000, 0.614, 0.928, 0.976),
    "ensemble": (1.000, 0.634, 0.940, 0.996),
    "strong": (0.996, 0.891, 0.986, 0.945),
}
#: Names in the table and in the scores.
SPREAD = {"accuracy": "accuracy", "naive": "naive", "optimal": "optimal"}
MEDIAN = {
    "honest": "honest",
    "TDR": "tdr",
    "TAR": "tar",
    "IoU": "iou",
    "decades": "width",
    "recursion, picture": "recursive_image",
    "recursion, published": "recursive_published",
}


def report(out: Path) -> str:
    """Return medians (smallest to largest), one row for a kind of map; fits below the least accuracy do not count."""
    lines = [heading("", "fits that count", "epochs", *SPREAD, *MEDIAN)]
    for name in [*GROUPS, "ensemble"]:
        fits = [json.loads(file.read_text()) for file in sorted((out / name).glob("*.json"))]
        if fits:
            lines += rows(name, fits)
    return "\n".join(lines)


def rows(name: str, fits: list[dict[str, Any]]) -> list[str]:
    counted = [one for one in fits if one["fit"]["accuracy"] >= LEAST_ACCURACY]
    count = f"{len(counted)} of {len(fits)}"
    if not counted:
        return [row(name, count)]
    epochs = f"{median(one['fit']['epochs'] for one in counted):.0f}"
    found = []
    for kind in counted[0]["scores"]:
        label = name if kind == "pi" else f"{name}, {kind}"
        of = {column: [one["scores"][kind][column] for one in counted] for column in counted[0]["scores"][kind]}
        spreads = [spread(of[column]) for column in SPREAD.values()]
        medians = [f"{median(of[column]):.3f}" for column in MEDIAN.values()]
        found.append(row(label, count, epochs, *spreads, *medians))
        if label in PAPER:
            *published, recursion = (f"{value:.3f}" for value in PAPER[label])
            found.append(row("*paper*", "", "", *published, *[""] * (len(MEDIAN) - 1), recursion))
    return found


def spread(values: list[float]) -> str:
    return f"{median(values):.3f} ({min(values):.3f}–{max(values):.3f})"
