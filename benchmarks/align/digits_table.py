"""Tables of the ALIGN benchmark on digits, from the files of its fits: means over seeds, paired differences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from benchmarks.shared.markdown import heading, row
from xai_align.comparison.student_t import critical_value

COLUMNS = {
    "ID acc.": "id_accuracy",
    "OOD acc.": "ood_accuracy",
    "CAM inside": "id_energy",
    "inside, OOD": "ood_energy",
    "suff. ↓": "sufficiency_mean",
    "comp. ↑": "comprehensiveness_mean",
    "suff. blur ↓": "sufficiency_blur",
    "comp. blur ↑": "comprehensiveness_blur",
    "insertion ↑": "insertion_auc",
    "hard AUC": "id_hard_auc",
    "mask IoU": "id_iou",
    "mask mean": "id_mask_mean",
}
#: Comparisons with another method, seed by seed.
PAIRED = {
    "OOD acc.": "ood_accuracy",
    "ID acc.": "id_accuracy",
    "suff. ↓": "sufficiency_mean",
    "comp. ↑": "comprehensiveness_mean",
    "insertion ↑": "insertion_auc",
}

#: The rows, from top to bottom.
ORDER = (
    "erm",
    "sgt",
    "dre",
    "gradia",
    "care",
    "align",
    "align, no mixup",
    "align, soft",
    "align, wide",
    "align + backgrounds",
    "align 3 + backgrounds",
    "oracle",
    "oracle + backgrounds",
    "random",
    "grey",
    "inverse",
    "inverse + backgrounds",
    "everywhere",
)

Fits = dict[int, dict[str, Any]]


def report(out: Path) -> str:
    """Return all tables of the kinds of data that have fits."""
    parts = []
    for kind in sorted(path for path in out.iterdir() if path.is_dir()):
        fits = {name: found for name in ORDER if (found := fits_of(kind / name))}
        if fits:
            parts += [f"{kind.name}\n", table(fits), ""]
            parts += [part for other in ("erm", "dre") if other in fits for part in (paired(fits, other), "")]
            parts += [signs(fits), "", goals(fits), ""]
    return "\n".join(parts)


def goals(fits: dict[str, Fits]) -> str:
    """Return the targets that were set in advance, for each method with a masker."""
    lines = []
    for method, found in fits.items():
        seeds = sorted(set(found).intersection(*(fits[other] for other in ("erm", "dre") if other in fits)))
        if not seeds or "id_iou" not in found[seeds[0]]:
            continue
        ious = [found[s]["id_iou"] for s in seeds]
        ratio = fmean(found[s]["id_energy"] for s in seeds) / fmean(fits["erm"][s]["id_energy"] for s in seeds)
        rivals = [fits[other] for other in ("erm", "dre") if other in fits]
        better = sum(
            all(
                found[s]["sufficiency_mean"] < rival[s]["sufficiency_mean"]
                and found[s]["comprehensiveness_mean"] > rival[s]["comprehensiveness_mean"]
                for rival in rivals
            )
            for s in seeds
        )
        gain = difference([found[s]["ood_accuracy"] - fits["erm"][s]["ood_accuracy"] for s in seeds])
        lines.append(
            f"{method}: mask IoU {median(ious):.3f} (least {min(ious):.3f}), CAM inside {ratio:.2f} x ERM's, "
            "sufficiency and comprehensiveness better than ERM's and DRE's in "
            f"{better} of {len(seeds)} seeds, OOD accuracy {gain}"
        )
    return "\n\n".join(lines)


def fits_of(folder: Path) -> Fits:
    """Return scores by seed."""
    files = sorted(folder.glob("*.json"), key=lambda file: int(file.stem))
    return {int(file.stem): json.loads(file.read_text()) for file in files}


def table(fits: dict[str, Fits]) -> str:
    """Return means (smallest to largest) over the seeds of each method; for the IoU the median."""
    lines = [heading("", "seeds", *COLUMNS, "s")]
    for method, found in fits.items():
        cells = [_spread([one[c] for one in found.values() if c in one], c) for c in COLUMNS.values()]
        seconds = f"{median(one['seconds'] for one in found.values()):.0f}"
        lines.append(row(method, len(found), *cells, seconds))
    return "\n".join(lines)


def paired(fits: dict[str, Fits], other: str) -> str:
    """Return mean differences to another method on the same seeds, 95 % t intervals, and how many are positive."""
    lines = [heading(f"less {other}", "seeds", *PAIRED)]
    for method, found in fits.items():
        seeds = sorted(set(found) & set(fits[other]))
        if method != other and seeds:
            cells = [_difference_in(c, found, fits[other], seeds) for c in PAIRED.values()]
            lines.append(row(method, len(seeds), *cells))
    return "\n".join(lines)


def _difference_in(column: str, found: Fits, other: Fits, seeds: Sequence[int]) -> str:
    """Return the paired difference; nothing for a column that older fits lack."""
    both = [s for s in seeds if column in found[s] and column in other[s]]
    return difference([found[s][column] - other[s][column] for s in both]) if both else ""


def signs(fits: dict[str, Fits]) -> str:
    """Return the measures of the shortcut check, smallest to largest over the seeds, and how many fits have a sign."""
    names = ("shuffled", "plain_colour", "removed", "on_frame", "same_place")
    lines = [heading("", "signs in", *names, "collapse warnings")]
    for method, found in fits.items():
        fired = sum(bool(one["signs"]) for one in found.values())
        cells = [
            _range([one["shortcuts"][n] for one in found.values() if one["shortcuts"].get(n) is not None])
            for n in names
        ]
        warned = sum(one["collapses"] for one in found.values())
        lines.append(row(method, f"{fired} of {len(found)}", *cells, warned))
    return "\n".join(lines)


def difference(values: Sequence[float]) -> str:
    """``+.021 [+.010, +.032] 5/5``: mean, interval, and the number above zero."""
    up = f"{sum(v > 0 for v in values)}/{len(values)}"
    if len(values) < 2:
        return f"{fmean(values):+.3f} {up}"
    half = critical_value(0.95, len(values) - 1) * stdev(values) / sqrt(len(values))
    return f"{fmean(values):+.3f} [{fmean(values) - half:+.3f}, {fmean(values) + half:+.3f}] {up}"


def _spread(values: Sequence[float], column: str) -> str:
    if not values:
        return ""
    middle = median(values) if column.endswith("iou") else fmean(values)
    return f"{middle:.3f} ({min(values):.3f}–{max(values):.3f})"


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f}–{max(values):.2f}" if values else ""
