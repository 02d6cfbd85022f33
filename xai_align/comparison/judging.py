"""Explanations of one method for one kind of question on a batch of images, and their metric values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align._tools.random_state import fixed_random_state, mixed_seed
from xai_align.comparison.example import Example, inputs_of
from xai_align.comparison.one_by_one import message_of, one_by_one
from xai_align.comparison.scored import has_scores, scored, scored_cells
from xai_align.comparison.store import ImageCurve, Part, Value
from xai_align.evaluation.curve_metric import CurveMetric
from xai_align.evaluation.does_not_apply import MetricDoesNotApply
from xai_align.explanation import Explanation, explain
from xai_align.perturbation.curve import Curve, perturbation_curves
from xai_align.perturbation.fills import FILLS
from xai_align.perturbation.questioned import NO_CHANGE, NoChangeWarning, curve_values
from xai_align.perturbation.ranking import TieWarning
from xai_align.perturbation.spec import PerturbationSpec
from xai_align.plugins.metric_signature import needs_of

if TYPE_CHECKING:
    from pathlib import Path

    from xai_align.comparison.method_reference import MethodReference
    from xai_align.comparison.pictures import Pictures
    from xai_align.comparison.plan import Plan
    from xai_align.hookspecs import MetricSpec
    from xai_align.question import Question

_NOTHING = (math.nan, math.nan)


class Judging:
    """Collector of the values of one method and one kind of question, which it adds to the part."""

    def __init__(self, plan: Plan, part: Part, kind: str, method: MethodReference, pictures: Pictures) -> None:
        self.plan, self.part, self.kind, self.method, self.pictures = plan, part, kind, method, pictures
        self._values: dict[tuple[Path, str], tuple[float, float]] = {}  # value and seconds
        self._seconds: dict[Path, float] = {}
        self._curves: dict[tuple[Path, str], ImageCurve] = {}
        self._labels = _labels([one for measure in plan.metrics for one in _specs(measure)])
        self._reasons: dict[str, int] = {}
        self._unchanged: set[tuple[Path, str]] = set()  # by image and perturbation

    def run(self, examples: Sequence[Example]) -> None:
        """Explain and measure. Warnings become notes."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            warnings.simplefilter("ignore", NoChangeWarning)  # noted for each image
            self._run(examples)
        for text in dict.fromkeys(self._warning_text(warning) for warning in caught):
            self._reason(text, len(examples))

    def _run(self, examples: Sequence[Example]) -> None:
        def failed(example: Example, error: Exception) -> None:
            self.part.problems.append(f"{example.name}: {self.method} ('{self.kind}') failed: {message_of(error)}")

        by_curves = [one for one in self.plan.metrics if isinstance(one.evaluate, CurveMetric)]
        for batch, explanation in one_by_one(self._explained, examples, failed):
            for example in batch:
                self._seconds[example.path] = explanation.seconds / len(batch)
            self.pictures.draw(batch, explanation, self.kind, self.method)
            if by_curves:
                self._judge_by_curves(batch, explanation.attribution, by_curves)
            for measure in self.plan.metrics:
                if measure not in by_curves:
                    self._judge(batch, explanation, measure)

    def add_to_part(self, examples: Sequence[Example]) -> None:
        """Add the values of all images to the part, NaN where there is none."""
        for example in examples:
            question = example.question
            for measure in self.plan.metrics:
                value, seconds = self._values.get((example.path, measure.name), _NOTHING)
                self.part.values.append(
                    Value(
                        image=example.name,
                        question=self.kind,
                        question_text="" if question is None else self.plan.output.text(question),
                        method=str(self.method),
                        metric=measure.name,
                        value=value,
                        seconds=self._seconds.get(example.path, math.nan),
                        metric_seconds=seconds,
                    )
                )
        self.part.curves.extend(self._curves.values())
        for reason, images in self._reasons.items():  # the same for every method: counted once
            self.part.notes[reason] = max(images, self.part.notes.get(reason, 0))

    def _explained(self, batch: Sequence[Example]) -> Explanation:
        if self.method.scores is not None:
            return scored(self.method, batch)
        questions = [example.question for example in batch]
        with fixed_random_state(mixed_seed(self.plan.seed, self.part.number)):
            return explain(
                self.plan.loaded.model,
                inputs_of(batch),
                questions,
                self.method.name,
                layer=self.method.layer,
                output=self.plan.loaded.output_field,
            )

    # --- metrics of perturbation curves: all in one pass ------------------------------------------

    def _judge_by_curves(self, batch: Sequence[Example], attributions: Tensor, metrics: Sequence[MetricSpec]) -> None:
        def apart(several: Sequence[MetricSpec], error: Exception) -> None:
            """Retry image by image, then metric by metric; a single metric on a single image has failed."""
            if self._applies_to_none(batch, several, error):
                return
            if len(batch) > 1:
                for position, example in enumerate(batch):
                    self._judge_by_curves([example], attributions[position : position + 1], several)
            elif len(several) > 1:
                for measure in several:
                    self._judge_by_curves(batch, attributions, [measure])
            else:
                self._failed(batch[0], several[0], error)

        start = perf_counter()
        questions = _questions(batch)
        try:
            curves = self._measured(batch, attributions, metrics)
        except Exception as error:  # fills and specs may come from third parties
            apart(metrics, error)
            return
        seconds = (perf_counter() - start) / len(batch) / len(metrics)
        self._keep_curves(batch, curves)
        for measure in metrics:
            try:
                scores = measure.evaluate.score([curves[one] for one in measure.evaluate.specs], questions)  # type: ignore[attr-defined]
                self._keep(batch, measure, scores, seconds)
            except Exception as error:  # so may scores
                apart([measure], error)

    def _measured(
        self, batch: Sequence[Example], attributions: Tensor, metrics: Sequence[MetricSpec]
    ) -> dict[PerturbationSpec, Curve]:
        specs = list(dict.fromkeys(one for measure in metrics for one in measure.evaluate.specs))  # type: ignore[attr-defined]
        size = self.plan.internal_batch_size
        with fixed_random_state(mixed_seed(self.plan.seed, self.part.number)):
            curves = perturbation_curves(
                self.plan.judge,
                inputs_of(batch),
                attributions,
                specs,
                internal_batch_size=size,
                activation=self.plan.output.activation,
            )
        return dict(zip(specs, curves, strict=True))

    def _keep_curves(self, batch: Sequence[Example], curves: dict[PerturbationSpec, Curve]) -> None:
        for one, curve in curves.items():
            if one.order == "single":  # no curve: each feature is perturbed by itself
                continue
            clean, masked = curve_values(curve, _questions(batch))
            label = self._labels[one]
            for example, whole, values in zip(batch, clean.tolist(), masked.tolist(), strict=True):
                if math.isnan(whole) and curve.activation == "relative":
                    self._unchanged.add((example.path, label))
                before = self._curves.get(
                    (example.path, label)
                )  # the same perturbation may be wanted at other fractions
                points = dict(zip(before.fractions, before.probabilities, strict=True)) if before else {0.0: whole}
                points = dict(sorted((points | dict(zip(one.fractions, values, strict=True))).items()))
                self._curves[example.path, label] = ImageCurve(
                    image=example.name,
                    question=self.kind,
                    method=str(self.method),
                    perturbation=label,
                    fractions=tuple(points),
                    probabilities=tuple(points.values()),
                )

    # --- all other metrics: one at a time ---------------------------------------------------------

    def _judge(self, batch: Sequence[Example], explanation: Explanation, measure: MetricSpec) -> None:
        asks = needs_of(measure.evaluate)
        if self.method.scores is not None and asks & {"explain", "explain_model"}:
            self._reason(f"{measure.name} runs a method again, and '{self.method}' are scores from outside", len(batch))
            return
        positions = list(range(len(batch)))
        if "scores" in asks:
            positions = [position for position in positions if has_scores(self.plan.scores[0], batch[position])]
            if len(positions) < len(batch):
                self._reason(f"{measure.name} does not apply without scores", len(batch) - len(positions))
        if asks & {"boxes", "masks"}:
            positions = [position for position in positions if batch[position].mask is not None]
            if len(positions) < len(batch):
                self._reason(f"{measure.name} does not apply without boxes", len(batch) - len(positions))

        def run(chosen: Sequence[int]) -> None:
            some = [batch[position] for position in chosen]
            try:
                with fixed_random_state(mixed_seed(self.plan.seed, self.part.number)):
                    start = perf_counter()
                    scores = measure.evaluate(
                        self.plan.judge,
                        inputs_of(some),
                        explanation.attribution[chosen],
                        target=_questions(some),
                        **self._extras(some, explanation if len(some) == len(batch) else None, asks),
                    )
            except MetricDoesNotApply as reason:
                if not self._applies_to_none(some, [measure], reason):
                    raise
            else:
                self._keep(some, measure, scores, (perf_counter() - start) / len(some))

        for _ in one_by_one(run, positions, lambda position, error: self._failed(batch[position], measure, error)):
            pass

    def _extras(
        self, batch: Sequence[Example], explanation: Explanation | None, asks: frozenset[str]
    ) -> dict[str, Any]:
        """Return the optional arguments that a metric takes."""
        model, method = self.plan.loaded.model, self.method

        def explain_model(other: nn.Module, inputs: Tensor, target: Any) -> Tensor:
            field = self.plan.loaded.output_field if other is model else None
            with fixed_random_state(mixed_seed(self.plan.seed, self.part.number)):
                return explain(other, inputs, target, method.name, layer=method.layer, output=field).attribution

        offers: dict[str, Callable[[], Any]] = {
            "explain": lambda: partial(explain_model, model),
            "explain_model": lambda: explain_model,
            "explanation": lambda: explanation or self._explained(batch),
            "boxes": lambda: [example.boxes for example in batch],
            "masks": lambda: torch.stack([example.mask for example in batch if example.mask is not None]),
            "scores": lambda: [scored_cells(self.plan.scores[0], example) for example in batch],
            "other_images": lambda: self.plan.other_images,
            "activation": lambda: self.plan.output.activation,
        }
        if self.plan.internal_batch_size is not None:
            offers["internal_batch_size"] = lambda: self.plan.internal_batch_size
        return {name: make() for name, make in offers.items() if name in asks}

    # --- results ----------------------------------------------------------------------------------

    def _keep(self, batch: Sequence[Example], measure: MetricSpec, scores: Tensor, seconds: float) -> None:
        if not isinstance(scores, Tensor) or scores.shape != (len(batch),):
            found = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"it gave {found} for {counted(len(batch), 'image')}; one value for each is needed, shape [N]"
            )
        for example, score in zip(batch, scores.detach().cpu().double().tolist(), strict=True):
            self._values[example.path, measure.name] = (score, seconds)
            if not math.isfinite(score) and self._is_unchanged(example, measure):
                self._reason(f"{measure.name} ('{self.kind}') does not apply: {NO_CHANGE}", 1)
            elif not math.isfinite(score):
                self._reason(
                    f"{measure.name} of {self.method} ('{self.kind}') is undefined, as for a constant map or an output "
                    "that is not finite",
                    1,
                )

    def _is_unchanged(self, example: Example, measure: MetricSpec) -> bool:
        return any((example.path, self._labels[one]) in self._unchanged for one in _specs(measure))

    def _failed(self, example: Example, measure: MetricSpec, error: Exception) -> None:
        text = f"{example.name}: {measure.name} of {self.method} ('{self.kind}') failed: {message_of(error)}"
        self.part.problems.append(text)

    def _applies_to_none(self, batch: Sequence[Example], metrics: Sequence[MetricSpec], error: Exception) -> bool:
        """Return True, and note it, if a metric does not apply to any of these, whose questions have one form."""
        alike = len({_form(example.question) for example in batch}) == 1
        if not (isinstance(error, MetricDoesNotApply) and len(metrics) == 1 and alike):
            return False
        self._reason(f"{metrics[0].name} does not apply to '{self.kind}': {error}", len(batch))
        return True

    def _warning_text(self, warning: warnings.WarningMessage) -> str:
        if issubclass(warning.category, TieWarning):  # its message names positions in the batch
            return f"maps of {self.method} have tied scores; ties are ranked in reading order"
        return f"{warning.category.__name__}: {warning.message}"

    def _reason(self, text: str, images: int) -> None:
        self._reasons[text] = self._reasons.get(text, 0) + images


def _specs(measure: MetricSpec) -> tuple[PerturbationSpec, ...]:
    return measure.evaluate.specs if isinstance(measure.evaluate, CurveMetric) else ()


def _labels(specs: Sequence[PerturbationSpec]) -> dict[PerturbationSpec, str]:
    """Return a label for each perturbation, equal for those that differ in fractions only.

    Other perturbations with the same label, as of two functions of one name, are numbered.
    """
    labels: dict[PerturbationSpec, str] = {}
    known: dict[tuple[Any, ...], str] = {}
    for one in specs:
        named = isinstance(one.fill, str) and one.fill in FILLS
        key = (one.order, one.grid, FILLS[one.fill]() if named else one.fill)
        try:
            if key not in known:
                taken = set(known.values())
                numbered = (f"{one.label} ({number})" for number in range(2, len(specs) + 1))
                known[key] = next(label for label in (one.label, *numbered) if label not in taken)
            labels[one] = known[key]
        except TypeError:  # a fill that cannot be hashed has no curve: its metric fails
            continue
    return labels


def _questions(batch: Sequence[Example]) -> list[Question | None]:
    return [example.question for example in batch]


def _form(question: Question | None) -> tuple[bool, int] | None:
    """Return the form of a question, which determines whether a metric applies: numbers of classes on both sides."""
    if question is None:
        return None
    against = -1 if question.foils is None else min(len(question.foils), 2)
    return len(question.targets) > 1, against
