"""Result of a comparison of methods: the record from which tables and pages are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan
from typing import Any

from xai_align.comparison.verdicts import Verdict
from xai_align.data.colour_legend import Key


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One number of the table: a metric's value for a method, over all images of one kind of question.

    Attributes:
        question: the kind, e.g. ``"why"``.
        method: as given to :func:`~xai_align.compare`, e.g. ``"pinet@input"``.
        metric: its name.
        n: number of images that have a value.
        missing: number of images that have none: the metric does not apply, or something failed.
        complete: whether it has a value for every image on which any method has one; else its mean is over fewer.
        mean: over the images that have a value.
        low, high: the ends of the mean's 95 % interval (:mod:`~xai_align.comparison.intervals`); NaN where n < 2, or
            all values are equal.
        difference: mean of (this method - the reference) over images where both have a value; NaN for the reference.
        difference_low, difference_high: the ends of its 95 % interval, for this comparison alone.
        pairs: number of images where both have a value.
        p: the p-value of the difference, for this comparison alone.
        adjusted_p: after Holm's correction for all comparisons of the table by metrics with a better direction; NaN for
            other metrics, and where there are too few images.
        verdict: ``"better"`` or ``"worse"`` than the reference, where ``adjusted_p`` is below 0.05; else ``""``.

    Example::

        row = Summary(question="why", method="fei", metric="deletion", n=90, missing=10, mean=0.21, low=0.18, high=0.24,
                      difference=-0.05, difference_low=-0.08, difference_high=-0.02, pairs=90, p=0.001,
                      adjusted_p=0.004, verdict="better")
        row.verdict  # "better": lower than the reference, where lower is better
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
    pairs: int = 0
    p: float = nan
    adjusted_p: float = nan
    verdict: Verdict = ""
    complete: bool = True


@dataclass(frozen=True, kw_only=True)
class CurveBand:
    """A perturbation curve, averaged over the images, with its 95 % interval at every fraction.

    Attributes:
        question: the kind.
        method: as given to :func:`~xai_align.compare`.
        perturbation: the order and the fill of the perturbation, as text.
        fractions: the perturbed fractions, in [0, 1].
        mean, low, high: the probability that the question is about, at each of the fractions; for a regression, the
            change relative to the answers for the clean and the empty image.

    Example::

        band = CurveBand(question="why", method="pinet", perturbation="morf blur", fractions=(0.0, 0.5, 1.0),
                         mean=(0.9, 0.3, 0.1), low=(0.8, 0.2, 0.0), high=(1.0, 0.4, 0.2))
        dict(zip(band.fractions, band.mean))[0.5]  # 0.3: mean probability with half of the image blurred
    """

    question: str
    method: str
    perturbation: str
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
        question_text: the question about this image, as text.
        method: as given to :func:`~xai_align.compare`; "" for the photograph.
        file: relative to the folder of the comparison.

    Example::

        picture = Picture(image="photos/cat.jpg", question="why", question_text="Why tabby?", method="pinet",
                          file="pictures/000-cat-why-pinet.png")
        (folder / picture.file).name  # "000-cat-why-pinet.png"
    """

    image: str
    question: str
    question_text: str
    method: str
    file: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of :func:`xai_align.compare`: everything that the page shows.

    Attributes:
        title: one line on what was compared.
        reference: the method that the others are compared with.
        methods, metrics, questions: in the order in which they were given.
        controls: the methods that use neither model nor question.
        higher_is_better: for each metric; None: it has no better direction.
        summaries_of_metrics: one sentence on what each metric measures.
        summaries: one for each question, method and metric.
        seconds: mean time per image, for each method.
        curves: one for each question, method and perturbation.
        pictures: of the first images.
        problems: what failed, one message each.
        notes: further remarks for the reader.
        values_file: the file with the values of the single images, relative to the folder; "" if there is none.
        provenance: versions, model, hashes, seed and settings.
        colours: the meaning of the colours of each method's pictures.
        warnings: remarks that are needed to read the numbers, such as that the model's weights are random.
        measured: what curves are of: "probability", or "relative change" for a regression.

    Example::

        from xai_align.data.photographs import FOLDER

        model = "timm:mobilenetv3_small_050@random"
        found: Comparison = compare(model, FOLDER, methods=["pinet", "random"], metrics=["tie_rate"], limit=1)
        {(row.method, row.metric): row.mean for row in found.summaries}
    """

    title: str
    reference: str
    methods: tuple[str, ...]
    controls: tuple[str, ...]
    metrics: tuple[str, ...]
    higher_is_better: dict[str, bool | None]
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
    colours: dict[str, tuple[Key, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    measured: str = "probability"
