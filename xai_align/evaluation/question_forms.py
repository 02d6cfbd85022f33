"""Classes that metrics for one form of question read from a question.

A metric for one form of question (RFxG taxonomy, arXiv 2511.13081) is not
defined for the others and raises :class:`MetricDoesNotApply`.
"""

from __future__ import annotations

from dataclasses import replace

from xai_align.evaluation.does_not_apply import MetricDoesNotApply
from xai_align.question import Index, Question


def counted_from_zero(question: Question, num_classes: int) -> Question:
    """Return the question with classes that are counted from the end, such as -1, counted from 0, each once."""

    def positions(entries: tuple[Index, ...]) -> tuple[Index, ...]:
        found = (tuple(i + num_classes if -num_classes <= i < 0 else i for i in index) for index in entries)
        return tuple(dict.fromkeys(found))

    foils = None if question.foils is None else positions(question.foils)
    return replace(question, targets=positions(question.targets), foils=foils)


def contrast_classes(question: Question) -> tuple[int, int]:
    """Return ``(A, B)`` of "why A and not B?".

    Raises:
        MetricDoesNotApply: the question has another form.
    """
    targets, foils = _sides(question, form := "one class against one foil, Question.why_not(A, B)")
    if len(targets) != 1 or len(foils) != 1:
        raise _another_form(question, form)
    return targets[0], foils[0]


def class_and_rest(question: Question) -> tuple[int, tuple[int, ...]]:
    """Return ``(A, G without A)`` of "why A and not the rest of its group?"; the rest may be one class.

    Raises:
        MetricDoesNotApply: the question has another form.
    """
    targets, foils = _sides(
        question, form := "one class against the rest of its group, Question.why_not_rest(A, group)"
    )
    if len(targets) != 1 or not foils:
        raise _another_form(question, form)
    return targets[0], foils


def group_classes(question: Question) -> tuple[int, ...]:
    """Return ``G`` of "why this group?"; the group may be one class.

    Raises:
        MetricDoesNotApply: the question has another form.
    """
    targets, foils = _sides(question, form := "a group and no foils, Question.why_group(group)")
    if foils:
        raise _another_form(question, form)
    return targets


def group_contrast(question: Question) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return ``(G1, G2)`` of "why group G1 and not group G2?"; the foils may be one class.

    Raises:
        MetricDoesNotApply: the question has another form.
    """
    targets, foils = _sides(question, form := "a group against a group, Question.why_group_not(group, foils)")
    if len(targets) < 2 or not foils:
        raise _another_form(question, form)
    return targets, foils


def _sides(question: Question, form: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if question.foils is None:  # "against all others" needs p_A alone: what A loses the others gain
        raise _another_form(question, form)
    entries = question.targets + question.foils
    if any(len(index) != 1 for index in entries):
        raise MetricDoesNotApply(
            f"this metric needs {form}; got '{question}', about entries {entries}, which are not classes"
        )
    return _classes(question.targets), _classes(question.foils)


def _classes(entries: tuple[Index, ...]) -> tuple[int, ...]:
    return tuple(index[0] for index in entries)


def _another_form(question: Question, form: str) -> MetricDoesNotApply:
    return MetricDoesNotApply(f"this metric needs {form}; got '{question}'")
