"""One batch of images: every question, explained by every method, measured by every metric.

What fails on the batch is retried image by image; what fails again is reported,
and the rest continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from xai_align.comparison.asked_questions import NoQuestion
from xai_align.comparison.example import Example, inputs_of
from xai_align.comparison.image_labels import boxes_on_input
from xai_align.comparison.judging import Judging
from xai_align.comparison.one_by_one import message_of, one_by_one
from xai_align.comparison.pictures import Describe, Pictures
from xai_align.comparison.plan import Plan
from xai_align.comparison.store import Part
from xai_align.data.images import ImageError
from xai_align.data.outside_scores import photograph_positions
from xai_align.data.prepared_image import prepared_image
from xai_align.explanation import logits_of
from xai_align.question import TargetError


def run_part(
    plan: Plan,
    number: int,
    *,
    out: Path | None = None,
    advance: Callable[[int], None] = lambda steps: None,
    describe: Describe | None = None,
) -> Part:
    """Run batch ``number`` of the plan. With ``out``, pictures of the first images are written to ``out/pictures``.

    ``advance`` is called with the number of explanations that were made or have failed; ``describe`` returns what
    the page shows of a map in addition to its picture.
    """
    part = Part(number=number)
    examples = _seen_by_model(plan, _opened(plan, part), part)
    part.images = [example.name for example in examples]
    for example in examples:
        if example.label is not None and plan.output.kind in ("classes", "one logit"):
            part.labelled += 1
            part.right += plan.output.predicted(example.logits) == example.label
    drawn = Pictures(plan, part, out, describe)
    for kind in plan.asking.kinds:
        asked = _asked(plan, kind, examples, part)
        for method in plan.methods:
            judged = Judging(plan, part, kind, method, drawn)
            judged.run(asked)
            judged.add_to_part(examples)
            advance(len(plan.part_paths(number)))
    return part


def _opened(plan: Plan, part: Part) -> Iterator[Example]:
    for path in plan.part_paths(part.number):
        try:
            x, size = prepared_image(path, plan.loaded, plan.value_range)
        except ImageError as error:
            part.problems.append(str(error))
            continue
        example = Example(path=path, input=x.to(plan.device))
        if plan.scores:
            example.positions = photograph_positions(size, plan.loaded.preprocess)
        known = plan.labels.get(path)
        if known is not None:
            example.label = known.label
            if known.boxes:
                boxes, mask = boxes_on_input(known.boxes, size, plan.loaded.preprocess)
                if len(boxes):
                    example.boxes, example.mask = boxes, mask.to(plan.device)
                else:
                    count_note(part, "boxes lie outside the part of the image that the model gets")
        yield example


def _seen_by_model(plan: Plan, examples: Iterator[Example], part: Part) -> list[Example]:
    """Return the examples on which the model does not fail, with its logits."""

    def failed(example: Example, error: Exception) -> None:
        part.problems.append(f"{example.name}: the model failed: {message_of(error)}")

    seen: list[Example] = []
    for batch, logits in one_by_one(
        lambda some: logits_of(plan.loaded.model, inputs_of(some), plan.loaded.output_field), list(examples), failed
    ):
        for example, row in zip(batch, logits, strict=True):
            example.logits = row
            seen.append(example)
    return seen


def _asked(plan: Plan, kind: str, examples: Sequence[Example], part: Part) -> list[Example]:
    """Return the examples of which this kind of question can be asked, with the question."""
    asked = []
    for example in examples:
        example.question = None
        try:
            asked_of_sides = plan.asking.question(kind, plan.output.scores(example.logits))
            example.question = plan.output.on_outputs(asked_of_sides)
        except NoQuestion as reason:
            count_note(part, f"'{kind}' cannot be asked: {reason}")
        except TargetError as error:  # the predicted class is one of the foils
            part.problems.append(f"{example.name}: '{kind}' cannot be asked: {error}")
        else:
            asked.append(example)
    return asked


def count_note(part: Part, text: str) -> None:
    """Count one more image for a note."""
    part.notes[text] = part.notes.get(text, 0) + 1
