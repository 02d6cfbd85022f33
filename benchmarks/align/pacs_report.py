"""Tables of the fits on single domains of PACS, and a picture of the CAMs and masks of some of them.

Differences are paired: the same source, split and seed. Intervals (95 %, Student's t) treat the four sources as fixed
and the seeds as random: variances are those within a source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isnan, sqrt
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch.nn.functional import interpolate

from benchmarks.shared.markdown import heading, row
from benchmarks.shared.pacs import Pacs
from xai_align.comparison.student_t import critical_value

Fit = dict[str, Any]
Value = Callable[[Fit], float]
#: Scores of explanations, and whether high (↑) is good.
FAITHFULNESS = {
    "sufficiency, mean": False,
    "sufficiency, blur": False,
    "comprehensiveness, mean": True,
    "comprehensiveness, blur": True,
}
MASKS = ("mask mean", "mask spread", "mask own", "p with what is kept", "p with what is dropped")
#: What the paper may have meant by AUC; fits of the first runs do not have them.
AREAS = ("hard-label AUC", "insertion AUC")
ORDER = (
    *("erm", "dre", "sgt", "gradia", "care", "grey", "align", "backgrounds", "inverse"),
    *("signed", "signed 1", "dre 1", "align 1"),
)


def report(fits: Sequence[Fit]) -> str:
    """Return Markdown; methods that were not fitted on all sources are compared on those where they were."""
    methods = [method for method in ORDER if any(fit["method"] == method for fit in fits)]
    by_key = {(fit["method"], fit["source"], fit["seed"]): fit for fit in fits}
    parts = [
        _accuracy(by_key, methods),
        _differences(by_key, methods, {"in domain": inside("accuracy"), "out of domain": outside("accuracy")}, 100),
        _faithfulness(by_key, methods, "in domain", inside),
        _faithfulness(by_key, methods, "out of domain", outside),
        _areas(by_key, methods),
        _masks(by_key, methods),
    ]
    return "\n\n".join(part for part in parts if part)


def inside(name: str) -> Value:
    """Return a number of the domain that was trained on."""
    return lambda fit: float(fit["domains"][fit["source"]][name])


def outside(name: str) -> Value:
    """Return its mean over the other domains."""
    return lambda fit: fmean(found[name] for domain, found in fit["domains"].items() if domain != fit["source"])


def paired(by_key: Mapping[tuple[str, str, int], Fit], one: str, other: str, value: Value) -> tuple[float, float, int]:
    """Return the mean difference over sources, half its interval, and the number of pairs."""
    by_source: dict[str, list[float]] = {}
    for (method, source, seed), fit in by_key.items():
        if method == one and (other, source, seed) in by_key:
            by_source.setdefault(source, []).append(value(fit) - value(by_key[other, source, seed]))
    count, sources = sum(map(len, by_source.values())), len(by_source)
    if not sources:
        return float("nan"), float("nan"), 0
    mean = fmean(fmean(found) for found in by_source.values())
    if any(len(found) < 2 for found in by_source.values()):
        return mean, float("nan"), count
    error = sqrt(sum(variance(found) / len(found) for found in by_source.values())) / sources
    return mean, critical_value(0.95, count - sources) * error, count


def _of(by_key: Mapping[tuple[str, str, int], Fit], method: str, source: str | None = None) -> list[Fit]:
    return [fit for (m, s, _), fit in by_key.items() if m == method and source in (None, s)]


def _accuracy(by_key: Mapping[tuple[str, str, int], Fit], methods: Sequence[str]) -> str:
    sources = sorted({source for _, source, _ in by_key})
    columns = ["accuracy, %", "fits", "in domain", "out of domain", "worst class out"]
    columns += [f"out, from {source}" for source in sources] + ["training, s"]
    lines = [heading(*columns)]
    for method in methods:
        fits = _of(by_key, method)
        cells = [_percent(value, fits) for value in (inside("accuracy"), outside("accuracy"), outside("worst class"))]
        cells += [_percent(outside("accuracy"), _of(by_key, method, source)) for source in sources]
        lines.append(row(method, len(fits), *cells, f"{fmean(fit['seconds'] for fit in fits):.0f}"))
    return "\n".join(lines)


def _percent(value: Value, fits: Sequence[Fit]) -> str:
    return f"{100 * fmean(map(value, fits)):.1f}" if fits else ""


def _differences(
    by_key: Mapping[tuple[str, str, int], Fit], methods: Sequence[str], values: Mapping[str, Value], scale: float = 1
) -> str:
    lines = ["| | pairs | " + " | ".join(values) + " |", "|---" * (2 + len(values)) + "|"]
    for one in methods:
        for other in ("erm", "dre", "align"):
            if one in ("erm", other) or other not in methods or ORDER.index(one) < ORDER.index(other):
                continue
            found = [paired(by_key, one, other, value) for value in values.values()]
            digits = 1 if scale == 100 else 3
            cells = [
                f"{scale * mean:+.{digits}f}" + ("" if isnan(half) else f" ± {scale * half:.{digits}f}")
                for mean, half, _ in found
            ]
            lines.append(row(f"{one} less {other}", found[0][2], *cells))
    return "\n".join(lines)


def _faithfulness(
    by_key: Mapping[tuple[str, str, int], Fit], methods: Sequence[str], where: str, of: Callable[[str], Value]
) -> str:
    names = {f"{name} {'↑' if high else '↓'}": of(name) for name, high in FAITHFULNESS.items()}
    lines = [heading(f"CAMs {where}", *names, "dead CAMs")]
    for method in methods:
        fits = _of(by_key, method)
        cells = [f"{fmean(map(value, fits)):.3f}" for value in (*names.values(), of("dead CAMs"))]
        lines.append(row(method, *cells))
    return "\n".join(lines) + "\n\n" + _differences(by_key, methods, names)


def _areas(by_key: Mapping[tuple[str, str, int], Fit], methods: Sequence[str]) -> str:
    with_areas = {key: fit for key, fit in by_key.items() if AREAS[0] in fit["domains"][fit["source"]]}
    if not with_areas:
        return ""
    values = {
        f"{name} {where}": of(name)
        for where, of in (("in domain", inside), ("out of domain", outside))
        for name in AREAS
    }
    lines = [heading("areas, higher is better", *values)]
    for method in methods:
        if fits := _of(with_areas, method):
            lines.append(row(method, *(f"{fmean(map(value, fits)):.3f}" for value in values.values())))
    return "\n".join(lines) + "\n\n" + _differences(with_areas, methods, values)


def _masks(by_key: Mapping[tuple[str, str, int], Fit], methods: Sequence[str]) -> str:
    columns = ["masks", "where", *MASKS, "collapse warnings", "shortcut warnings"]
    lines = [heading(*columns)]
    for method in methods:
        fits = _of(by_key, method)
        if "mask mean" not in fits[0]["domains"][fits[0]["source"]]:
            continue
        warned = [sum(name in fit["warnings"] for fit in fits) for name in ("CollapseWarning", "ShortcutWarning")]
        for where, of in (("in domain", inside), ("out of domain", outside)):
            cells = [f"{fmean(map(of(name), fits)):.2f}" for name in MASKS]
            counts = [f"{count} of {len(fits)}" for count in warned] if where == "in domain" else ["", ""]
            lines.append(row(method, where, *cells, *counts))
    return "\n".join(lines) if len(lines) > 1 else ""


def picture(pacs: Pacs, out: Path, source: str, seed: int, methods: Sequence[str]) -> Figure:
    """Draw a column for each of some pictures: it, and each method's CAM and mask; wrong methods are in brackets."""
    kept = {method: torch.load(out / f"{source}-{seed}-{method}.pt", weights_only=True) for method in methods}
    numbers = next(iter(kept.values()))["numbers"]
    images, labels = pacs.pixels[numbers].permute(0, 2, 3, 1), pacs.labels[numbers]
    rows = 1 + sum(1 + ("masks" in found) for found in kept.values())
    figure, axes = plt.subplots(rows, len(numbers), figsize=(0.8 * len(numbers), 0.85 * rows), squeeze=False)
    for axis, image in zip(axes[0], images, strict=True):
        axis.imshow(image)
    line = 1
    for method, found in kept.items():
        cams = found["cams"] / found["cams"].amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
        cams = interpolate(cams, images.shape[1:3], mode="bilinear")[:, 0]
        for axis, image, cam, right in zip(axes[line], images, cams, found["predicted"] == labels, strict=True):
            axis.imshow(image)
            axis.imshow(cam, cmap="jet", alpha=0.5, vmin=0, vmax=1)
            axis.set_title(method if right else f"({method})", fontsize=6, pad=1)
        line += 1
        if "masks" in found:
            for axis, mask in zip(axes[line], found["masks"][:, 0].float(), strict=True):
                axis.imshow(mask, cmap="gray", vmin=0, vmax=1)
            line += 1
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(pad=0.1)
    return figure
