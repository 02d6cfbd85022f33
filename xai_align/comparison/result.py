"""What a comparison of methods came to: the record that tables and pages are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One number of the table: a method, judged by a metric, over all images of one kind of question.

    Attributes:
        question: the kind, e.g. ``"why"``.
        method: as it was asked for, e.g. ``"pinet@input"``.
        metric: its name.
        n: images that have a value.
        missing: images that have none: the metric does not apply, or something failed.
        mean: over the images that have a value.
        low, high: the ends of the mean's 95 % bootstrap interval; NaN where n < 2.
        difference: mean over the images that both have of (this method - the reference); NaN for the reference.
        difference_low, difference_high: the ends of its 95 % bootstrap interval.
    """

    question: str
    method: str
    metric: str
    n: int
    missing: int
    mean: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float


@dataclass(frozen=True, kw_only=True)
class CurveBand:
    """A perturbation curve, averaged over the images, with its 95 % bootstrap interval at every fraction.

    Attributes:
        question: the kind.
        method: as it was asked for.
        series: how things were taken away, in words.
        fractions: how much was taken away, in [0, 1].
        mean, low, high: the questioned probability at each of the fractions.
    """

    question: str
    method: str
    series: str
    fractions: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture for the page.

    Attributes:
        image: the photograph's path.
        question: the kind; "" for the photograph.
        question_words: what was asked of this image, in words.
        method: as it was asked for; "" for the photograph.
        file: relative to the folder of the comparison.
    """

    image: str
    question: str
    question_words: str
    method: str
    file: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods, judged by metrics, on images: all that the page shows.

    Attributes:
        title: what was compared, in words.
        reference: the method that the others are compared with.
        methods, metrics, questions: in the order in which they were asked for.
        controls: those of the methods that look at neither model nor question.
        higher_is_better: of each metric.
        summaries_of_metrics: what each metric measures, in a sentence.
        summaries: one for each question, method and metric.
        seconds: mean per image, of each method.
        curves: one for each question, method and series.
        pictures: of the first images.
        problems: what failed, in words.
        notes: what else a reader should know.
        values_file: where the values of the single images are, relative to the folder; "" if nowhere.
        provenance: versions, model, hashes, seed and settings.
    """

    title: str
    reference: str
    methods: tuple[str, ...]
    controls: tuple[str, ...]
    metrics: tuple[str, ...]
    higher_is_better: dict[str, bool]
    summaries_of_metrics: dict[str, str]
    questions: tuple[str, ...]
    summaries: tuple[Summary, ...]
    seconds: dict[str, float]
    curves: tuple[CurveBand, ...]
    pictures: tuple[Picture, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    values_file: str
    provenance: dict[str, Any]
