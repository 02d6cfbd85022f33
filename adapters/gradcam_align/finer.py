"""Finer-CAM's question: a class against the most similar classes."""

from __future__ import annotations

from collections.abc import Sequence

from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from torch import Tensor

from gradcam_align.target_question import TargetQuestion
from xai_align.question import Question, TargetError


def finer_questions(questions: Sequence[Question], logits: Tensor, alpha: float, comparisons: int) -> list[Question]:
    """Return, for each example, the question of its class against the ``comparisons`` classes with the nearest logits.

    ``sum_k p_k (z_c - alpha z_k) / sum_k p_k`` over those classes ``k`` (Finer-CAM, CVPR 2025, arXiv 2501.11309).

    Raises:
        TargetError: a question is not about a single class of an output ``[N, K]``.
    """
    return [_finer(question, row, alpha, comparisons) for question, row in zip(questions, logits, strict=True)]


def _finer(question: Question, logits: Tensor, alpha: float, comparisons: int) -> Question:
    one_class = type(question) is Question and question.foils == () and len(question.targets) == 1
    if not one_class or logits.dim() != 1 or len(question.targets[0]) != 1:
        raise TargetError("Finer-CAM has its own foils and explains one class of an output [N, K]; give a class")
    question.answer(logits)  # raises where the class is out of range
    chosen = question.targets[0][0] % len(logits)
    nearest = (logits - logits[chosen]).abs().argsort(stable=True).tolist()
    foils = [index for index in nearest if index != chosen][:comparisons]
    return TargetQuestion(target=FinerWeightedTarget(chosen, foils, alpha))
