"""Value of a question for each output of a network, as plotted along a curve: one number per example.

For probabilities it is a probability: of the class (why A), of the group, summed
over its members (why G), or of one side given that it is either:
``p_A / (p_A + p_B)`` (why A and not B; Jacovi et al. 2021). All are the sigmoid
of the question's answer with log-sum-exp as the score of a group. Of labels with
a probability each (a sigmoid), a group's is the mean, and the opposite of one
logit has ``1 - p``. For raw logits it is the answer.

For numbers that are not logits (activation "relative") it is the answer's change
relative to that for the clean and the empty input, ``(a(x') - a(empty)) / |a(x) -
a(empty)|``: 0 for the empty input, and 1 for the clean one, or -1 if it has the
lower answer. If these two are nearly equal, the quotient says nothing about the
map: it is NaN, with a warning.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from xai_align._tools.callers_level import callers_level
from xai_align.perturbation.curve import Curve
from xai_align.question import Question, TargetError, as_questions


def questions_of(curve: Curve, target: Any) -> list[Question]:
    """Return one question for each example; None asks about the predicted class.

    Raises:
        TargetError: the target is not understood or names a class that the output does not have.
    """
    if target is None:
        target = curve.clean.argmax(1)
    return as_questions(target, len(curve.clean))


def questioned(outputs: Tensor, questions: list[Question], *, probabilities: bool) -> Tensor:
    """Return the values of the questions, ``[N, ...]``, for outputs ``[N, ..., K]``."""
    rows = [
        probability_of(question, row) if probabilities else _answers(row, question)
        for row, question in zip(outputs, questions, strict=True)
    ]
    return torch.stack(rows)


def curve_values(curve: Curve, target: Any = None) -> tuple[Tensor, Tensor]:
    """Return ``(clean [N], masked [N, F])``: the target's value for the clean inputs, and along the curve.

    Example::

        curve = perturbation_curve(model, images, images.abs())
        clean, masked = curve_values(curve, Question.why_not(281, 282))  # [2], [2, 9]: p_281 / (p_281 + p_282)
    """
    questions = questions_of(curve, target)
    probabilities = curve.has_probabilities
    if curve.empty is not None:
        return _relative(
            *(questioned(one, questions, probabilities=False) for one in (curve.clean, curve.masked, curve.empty))
        )
    return (
        questioned(curve.clean, questions, probabilities=probabilities),
        questioned(curve.masked, questions, probabilities=probabilities),
    )


#: Share of the answers below which the change from the empty to the clean one is taken as none.
SMALLEST_CHANGE = 1e-3
#: The same change as a share of the largest one along the curve.
SMALLEST_OF_CURVE = 0.1


class NoChangeWarning(UserWarning):
    """Warning that relative curves do not apply: the answers for the clean and the empty input are nearly equal."""


def _relative(clean: Tensor, masked: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
    """Return changes from the empty answer as shares of the whole change; NaN if that is almost zero."""
    whole, changes = clean - empty, masked - empty[:, None]
    least = torch.maximum(
        SMALLEST_CHANGE * torch.maximum(clean.abs(), empty.abs()),
        SMALLEST_OF_CURVE * changes.abs().nan_to_num().amax(1),
    )
    none = whole.abs() <= least
    if none.any():
        warnings.warn(NO_CHANGE, NoChangeWarning, stacklevel=callers_level())
    unit = torch.where(none, torch.nan, whole.abs())
    return whole / unit, changes / unit[:, None]


#: What is said where relative curves do not apply.
NO_CHANGE = (
    "relative curves do not apply to images whose answer is nearly that of the empty image: the change between the two "
    f"is at most {SMALLEST_CHANGE:.1%} of the answers, or {SMALLEST_OF_CURVE:.0%} of the largest change along the curve"
)


def probability_of(question: Question, p: Tensor) -> Tensor:
    """Return the question's probability, ``[...]``, from probabilities ``[..., K]``.

    Raises:
        TargetError: the output lacks a class, or the question is a function of the output and not about classes.

    Example::

        probability_of(Question.why_not(0, 1), torch.tensor([0.3, 0.1, 0.6]))  # 0.75
    """
    # the entries of the question, checked against the size of the output
    targets, foils = question.entries(p.reshape(-1, p.shape[-1])[0])
    if not targets and not foils:
        raise TargetError(
            f"the question '{question}' is a function of the output and has no probability; ask about classes, e.g. "
            "Question.why(1), or measure curves of the answer itself with activation=None"
        )
    if not targets:
        return 1 - p[..., foils].mean(-1)
    mass = p[..., targets].mean(-1) if question.independent else p[..., targets].sum(-1)
    return mass / (mass + p[..., foils].sum(-1)) if foils and question.foils is not None else mass


def _answers(z: Tensor, question: Question) -> Tensor:
    flat = z.reshape(-1, z.shape[-1])
    return torch.stack([question.answer(row) for row in flat]).reshape(z.shape[:-1])
