"""Tables of the ALIGN benchmark on digits, from the files of its fits: means over seeds, paired differences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

#: Half-width of the 95 % interval of a mean, in standard errors: Student's t for 1, 2, ... degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
COLUMNS = {
    "ID acc.": "id_accuracy",
    "OOD acc.": "ood_accuracy",
    "CAM inside": "id_energy",
    "inside, OOD": "ood_energy",
    "suff. ↓": "sufficiency_mean",
    "comp. ↑": "comprehensiveness_mean",
    "suff. blur ↓": "sufficiency_blur",
    "comp. blur ↑": "comprehensiveness_blur",
    "mask IoU": "id_iou",
    "mask mean": "id_mask_mean",
}
#: What is compared with a method seed by seed.
PAIRED = {
    "OOD acc.": "ood_accuracy",
    "ID acc.": "id_accuracy",
    "suff. ↓": "sufficiency_mean",
    "comp. ↑": "comprehensiveness_mean",
}

Fits = dict[int, dict[str, Any]]


def report(out: Path) -> str:
    """All tables of the kinds of data that there are fits of."""
    parts = []
    for kind in sorted(path for path in out.iterdir() if path.is_dir()):
        fits = {path.name: found for path in sorted(kind.iterdir()) if (found := fits_of(path))}
        if fits:
            parts += [f"{kind.name}\n", table(fits), ""]
            parts += [part for other in ("erm", "dre") if other in fits for part in (paired(fits, other), "")]
            parts += [signs(fits), ""]
    return "\n".join(parts)


def fits_of(folder: Path) -> Fits:
    """Scores by seed."""
    files = sorted(folder.glob("*.json"), key=lambda file: int(file.stem))
    return {int(file.stem): json.loads(file.read_text()) for file in files}


def table(fits: dict[str, Fits]) -> str:
    """Means (least to most) over the seeds of each method; of the IoU the median."""
    lines = [_cells(["", "seeds", *COLUMNS, "s"]), "|---" * (len(COLUMNS) + 3) + "|"]
    for method, found in fits.items():
        cells = [_spread([one[c] for one in found.values() if c in one], c) for c in COLUMNS.values()]
        seconds = f"{median(one['seconds'] for one in found.values()):.0f}"
        lines.append(_cells([method, str(len(found)), *cells, seconds]))
    return "\n".join(lines)


def paired(fits: dict[str, Fits], other: str) -> str:
    """Mean differences to another method on the same seeds, 95 % t intervals, and how many seeds went up."""
    lines = [_cells([f"less {other}", "seeds", *PAIRED]), "|---" * (len(PAIRED) + 2) + "|"]
    for method, found in fits.items():
        seeds = sorted(set(found) & set(fits[other]))
        if method != other and seeds:
            cells = [difference([found[s][c] - fits[other][s][c] for s in seeds]) for c in PAIRED.values()]
            lines.append(_cells([method, str(len(seeds)), *cells]))
    return "\n".join(lines)


def signs(fits: dict[str, Fits]) -> str:
    """The measures of the shortcut check, least to most over the seeds, and in how many fits there was a sign."""
    names = ("shuffled", "plain_colour", "removed", "on_frame", "same_place")
    lines = [_cells(["", "signs in", *names, "collapse warnings"]), "|---" * (len(names) + 3) + "|"]
    for method, found in fits.items():
        fired = sum(bool(one["signs"]) for one in found.values())
        cells = [
            _range([one["shortcuts"][n] for one in found.values() if one["shortcuts"].get(n) is not None])
            for n in names
        ]
        warned = sum(one["collapses"] for one in found.values())
        lines.append(_cells([method, f"{fired} of {len(found)}", *cells, str(warned)]))
    return "\n".join(lines)


def difference(values: Sequence[float]) -> str:
    """``+.021 [+.010, +.032] 5/5``: mean, interval, and how many are above zero."""
    up = f"{sum(v > 0 for v in values)}/{len(values)}"
    if len(values) < 2:
        return f"{fmean(values):+.3f} {up}"
    half = STUDENT[min(len(values) - 2, len(STUDENT) - 1)] * stdev(values) / sqrt(len(values))
    return f"{fmean(values):+.3f} [{fmean(values) - half:+.3f}, {fmean(values) + half:+.3f}] {up}"


def _spread(values: Sequence[float], column: str) -> str:
    if not values:
        return ""
    middle = median(values) if column.endswith("iou") else fmean(values)
    return f"{middle:.3f} ({min(values):.3f}–{max(values):.3f})"


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f}–{max(values):.2f}" if values else ""


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
