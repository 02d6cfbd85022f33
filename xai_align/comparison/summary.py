"""Summary of the values of single images as the record of the comparison."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xai_align._tools.counted import counted
from xai_align._tools.files.legible import legible
from xai_align.comparison.intervals import DESCRIPTION, Interval, mean_intervals
from xai_align.comparison.provenance import command_line, device_name, now
from xai_align.comparison.result import Comparison, CurveBand, Picture, Summary
from xai_align.comparison.verdicts import ERROR_RATE, JUDGED_FROM, holm, judged_p, verdict_of
from xai_align.data.colour_legend import Key, colour_legend
from xai_align.hookspecs import AttributionSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xai_align.comparison.plan import Plan
    from xai_align.comparison.store import Part

Array = NDArray[np.float64]


class ScoreTable:
    """Accumulator of parts; only the numbers of each image are kept."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.columns = {
            (kind, str(method), measure.name): number
            for number, (kind, method, measure) in enumerate(
                (kind, method, measure)
                for kind in plan.asking.kinds
                for method in plan.methods
                for measure in plan.metrics
            )
        }
        self.images = 0
        self._values: list[Array] = []
        self._curves: dict[tuple[str, str, str], dict[float, dict[int, float]]] = {}
        self._seconds: dict[str, list[float]] = {str(method): [] for method in plan.methods}
        self._pictures: list[Picture] = []
        self._problems: list[str] = []
        self._notes: Counter[str] = Counter()
        self._labelled = self._right = 0

    def add(self, part: Part) -> None:
        """Add a part."""
        rows = {image: number for number, image in enumerate(part.images)}
        block = np.full((len(rows), len(self.columns)), np.nan)
        seconds: dict[tuple[str, str, str], float] = {}
        for value in part.values:
            block[rows[value.image], self.columns[value.question, value.method, value.metric]] = value.value
            seconds[value.image, value.question, value.method] = value.seconds
        self._values.append(block)
        for (_, _, method), taken in seconds.items():
            self._seconds[method].append(taken)
        for curve in part.curves:
            points = self._curves.setdefault((curve.question, curve.method, curve.perturbation), {})
            for fraction, probability in zip(curve.fractions, curve.probabilities, strict=True):
                points.setdefault(fraction, {})[self.images + rows[curve.image]] = probability
        self.images += len(rows)
        self._pictures.extend(Picture(**picture) for picture in part.pictures)
        self._problems.extend(part.problems)
        self._notes.update(part.notes)
        self._labelled += part.labelled
        self._right += part.right

    def comparison(self, *, values_file: str) -> Comparison:
        """Return the record of all parts."""
        plan = self.plan
        values = np.concatenate([*self._values, np.empty((0, len(self.columns)))])
        methods, metrics = tuple(map(str, plan.methods)), tuple(one.name for one in plan.metrics)
        return Comparison(
            title=f"{counted(len(methods), 'method')}, {counted(len(metrics), 'metric')}, "
            f"{counted(self.images, 'image')}: {plan.model}",
            reference=plan.reference,
            methods=methods,
            controls=tuple(str(one) for one in plan.methods if one.spec.control),
            metrics=metrics,
            higher_is_better={one.name: one.higher_is_better for one in plan.metrics},
            summaries_of_metrics={one.name: one.summary for one in plan.metrics},
            questions=plan.asking.kinds,
            summaries=self._summaries(values),
            seconds={method: _mean(taken) for method, taken in self._seconds.items()},
            curves=self._bands(),
            pictures=tuple(self._pictures),
            problems=tuple(self._problems),
            notes=tuple(self._all_notes()),
            values_file=values_file,
            provenance=self._provenance(),
            colours={str(one): _colours(one.spec, regression=plan.output.kind == "regression") for one in plan.methods},
            warnings=plan.warnings,
            measured="relative change" if plan.output.activation == "relative" else "probability",
        )

    def _summaries(self, values: Array) -> tuple[Summary, ...]:
        reference = [self.columns[kind, self.plan.reference, metric] for kind, _, metric in self.columns]
        means = mean_intervals(values)
        differences = mean_intervals(values - values[:, reference])
        adjusted = self._adjusted(differences)
        higher_is_better = {one.name: one.higher_is_better for one in self.plan.metrics}
        known = np.isfinite(values)
        by_any: dict[tuple[str, str], NDArray[np.bool_]] = {}  # the images on which any method has a value
        for (kind, _, metric), column in self.columns.items():
            by_any[kind, metric] = known[:, column] | by_any.get((kind, metric), np.zeros(len(values), bool))
        found = []
        for (kind, method, metric), column in self.columns.items():
            itself = method == self.plan.reference
            found.append(
                Summary(
                    question=kind,
                    method=method,
                    metric=metric,
                    n=int(means.n[column]),
                    missing=len(values) - int(means.n[column]),
                    mean=float(means.mean[column]),
                    low=float(means.low[column]),
                    high=float(means.high[column]),
                    difference=float("nan") if itself else float(differences.mean[column]),
                    difference_low=float("nan") if itself else float(differences.low[column]),
                    difference_high=float("nan") if itself else float(differences.high[column]),
                    pairs=0 if itself else int(differences.n[column]),
                    p=float("nan") if itself else float(differences.p[column]),
                    adjusted_p=adjusted[column],
                    verdict=verdict_of(
                        float(differences.mean[column]),
                        adjusted[column],
                        higher_is_better=higher_is_better[metric],
                    ),
                    complete=bool(np.array_equal(known[:, column], by_any[kind, metric])),
                )
            )
        return tuple(found)

    def _adjusted(self, differences: Interval) -> list[float]:
        """Return the p-value of each column, adjusted for the comparisons of its table; NaN where none is made."""
        adjusted = [float("nan")] * len(self.columns)
        judged = {one.name for one in self.plan.metrics if one.higher_is_better is not None}
        for kind in self.plan.asking.kinds:
            table = [
                column
                for (asked, method, metric), column in self.columns.items()
                if asked == kind and method != self.plan.reference and metric in judged
            ]
            found = holm([judged_p(float(differences.p[i]), int(differences.n[i])) for i in table])
            for column, p in zip(table, found, strict=True):
                adjusted[column] = p
        return adjusted

    def _bands(self) -> tuple[CurveBand, ...]:
        bands = []
        for (kind, method, perturbation), points in self._curves.items():
            fractions = sorted(points)
            values = np.full((self.images, len(fractions)), np.nan)
            for column, fraction in enumerate(fractions):
                values[list(points[fraction]), column] = list(points[fraction].values())
            band = mean_intervals(values)
            fixed = (band.n > 1) & np.isnan(band.low)  # equal for all images, as the ends of a relative curve are
            low, high = (np.where(fixed, band.mean, end) for end in (band.low, band.high))
            bands.append(
                CurveBand(
                    question=kind,
                    method=method,
                    perturbation=perturbation,
                    fractions=tuple(fractions),
                    mean=tuple(band.mean.tolist()),
                    low=tuple(low.tolist()),
                    high=tuple(high.tolist()),
                )
            )
        return tuple(bands)

    def _all_notes(self) -> Iterable[str]:
        yield from self.plan.notes
        for note, images in _gathered(self._notes).items():
            yield f"{note} ({counted(images, 'image')})"
        if self._labelled:
            yield f"the model predicts the label of {self._right} of {counted(self._labelled, 'labelled image')}"

    def _provenance(self) -> dict[str, Any]:
        plan = self.plan
        chosen = {name: value for name, value in plan.settings.items() if name not in ("versions", "images", "labels")}
        return {
            "date": now(),
            "command": command_line(),
            "model": plan.model,
            "weights_sha256": plan.settings["weights_sha256"],
            "device": device_name(plan.device),
            "seed": plan.seed,
            "images_counted": self.images,
            "interval": f"{DESCRIPTION}; differences are paired",
            "verdicts": f"from {JUDGED_FROM} images, at {ERROR_RATE:.0%} for all comparisons of a table (Holm 1979)",
            "versions": plan.settings["versions"],
            "settings": chosen | {"internal_batch_size": plan.internal_batch_size, "reference": plan.reference},
            "images": [{"file": legible(path), "sha256": h} for path, h in zip(plan.paths, plan.hashes, strict=True)],
        }


def _colours(spec: AttributionSpec, *, regression: bool) -> tuple[Key, ...]:
    return colour_legend(spec.values, signed=bool(spec.signed), regression=regression)


def _gathered(notes: Mapping[str, int]) -> dict[str, int]:
    """Merge notes that differ only in the reason after the colon, and keep one of the reasons."""
    several: dict[str, dict[str, int]] = {}
    for note, images in notes.items():
        head = note.partition(": ")[0]
        several.setdefault(note if head.endswith("Warning") else head, {})[note] = images
    found = {}
    for head, alike in several.items():
        first = next(iter(alike))
        text = first if len(alike) == 1 else f"{head}, for example: {first.partition(': ')[2]}"
        found[text] = sum(alike.values())
    return found


def _mean(taken: list[float]) -> float:
    finite = [seconds for seconds in taken if np.isfinite(seconds)]
    return float(np.mean(finite)) if finite else float("nan")
