"""Completeness: the gap between the answer and the sum of the map; zero for an exact readout with its bias."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_finite
from xai_align.pinet.records import Readout
from xai_align.pinet.rounding import wide
from xai_align.question import answers, as_questions


class Explained(Protocol):
    """The part of :class:`~xai_align.explanation.Explanation` that is read here."""

    @property
    def readout(self) -> Readout | None:
        """Exact decomposition of the answer, if the method has one."""


def completeness_gap(
    forward_func: nn.Module,
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    explanation: Explained | None = None,
) -> Tensor:
    """Compute ``|answer - sum of attributions - bias|`` in logits; ``[N]``, lower is better.

    Args:
        forward_func: gives logits ``[N, K]``.
        inputs: ``[N, ...]``.
        attributions: ``[N, ...]``.
        target: a class, a question, one for each example, or None for the predicted class.
        explanation: source of the attributions; if it has a readout, its bias is used, and its sum is taken
            before contributions were spread over pixels. Without it the bias is 0.

    Raises:
        TargetError: the target is not understood, or the output does not have it.
        ValueError: the attributions hold NaN or infinite values.

    Example::

        x = images.clone().requires_grad_()
        gradients = torch.autograd.grad(model(x)[:, 281].sum(), x)[0]
        completeness_gap(model, images, gradients * images, target=281)  # [2], in logits
    """
    check_finite("the attributions", attributions)
    if explanation is not None and explanation.readout is not None:
        return explanation.readout.completeness_error.abs()
    with torch.no_grad():
        logits = forward_func(inputs)
    questions = as_questions(logits.flatten(1).argmax(1) if target is None else target, len(inputs))
    return (wide(answers(questions, logits)) - wide(attributions).flatten(1).sum(1)).abs()
