"""Does the map add up to the answer? Exact for a readout with its bias, a measure of the gap for other methods."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from xai_align.pinet.records import Readout
from xai_align.pinet.rounding import wide
from xai_align.question import answers, as_questions


class Explained(Protocol):
    """An explanation, as far as it is looked at here: :class:`~xai_align.explanation.Explanation`."""

    @property
    def readout(self) -> Readout | None:
        """The exact decomposition of the answer, if the method has one."""


def completeness_gap(
    forward_func: nn.Module,
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    explanation: Explained | None = None,
) -> Tensor:
    """``|answer - sum of attributions - bias|`` in logits; ``[N]``, lower is better.

    Args:
        forward_func: gives logits ``[N, K]``.
        inputs: ``[N, ...]``.
        attributions: ``[N, ...]``.
        target: a class, a question, one for each example, or None for the predicted class.
        explanation: where the attributions come from; a readout brings its bias, and its sum is taken
            before anything was spread over pixels. Without it the bias is 0.

    Raises:
        TargetError: the target is not understood or not there.
        ValueError: the attributions hold NaN or infinite values.

    Example::

        x = images.clone().requires_grad_()
        gradients = torch.autograd.grad(model(x)[:, 281].sum(), x)[0]
        completeness_gap(model, images, gradients * images, target=281)  # [2], in logits
    """
    if not attributions.isfinite().all():
        raise ValueError("the attributions hold NaN or infinite values; they add up to nothing")
    if explanation is not None and explanation.readout is not None:
        return explanation.readout.completeness_error.abs()
    with torch.no_grad():
        logits = forward_func(inputs)
    questions = as_questions(logits.flatten(1).argmax(1) if target is None else target, len(inputs))
    return (wide(answers(questions, logits)) - wide(attributions).flatten(1).sum(1)).abs()
