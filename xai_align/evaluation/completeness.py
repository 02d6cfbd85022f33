"""Completeness: the gap between the answer and the sum of the map; zero for an exact readout with its bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_finite
from xai_align._tools.logits import select_logits
from xai_align._tools.model_state import check_evaluation_mode
from xai_align._tools.thread_state import restores_thread_state
from xai_align.evaluation.does_not_apply import MetricDoesNotApply
from xai_align.perturbation.fills import filler
from xai_align.pinet.records import Readout
from xai_align.pinet.rounding import wide
from xai_align.question import answers, as_questions


class Explained(Protocol):
    """Part of :class:`~xai_align.explanation.Explanation` that is used here."""

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
        MetricDoesNotApply: the explanation's values are not parts of the answer.
        TargetError: the target is not understood, or the output does not have it.
        ValueError: the attributions hold NaN or infinite values.

    Example::

        x = images.clone().requires_grad_()
        gradients = torch.autograd.grad(model(x)[:, 281].sum(), x)[0]
        completeness_gap(model, images, gradients * images, target=281)  # [2], in logits
    """
    check_finite("the attributions", attributions)
    _check_contributions(explanation)
    if explanation is not None and explanation.readout is not None:
        return explanation.readout.completeness_error.abs()
    return completeness_error(forward_func, inputs, attributions, target=target)


@restores_thread_state
def completeness_error(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    constant: Tensor | float | None = None,
    baselines: Any = None,
    explanation: Explained | None = None,
) -> Tensor:
    """Compute the difference of the answer and the map's sum with its method's constant, in logits; ``[N]``.

    ``|answer - (sum of the map + constant)|``, lower is better. The answer is that of ``forward_func``, run here, and
    the sum is of the map that is given: unlike :func:`completeness_gap`, the method's own check is not used.

    - A method that states a constant: ``constant=``, or its ``explanation``, whose readout has it (the bias, and
      the evidence on prefix tokens or around the layer, which is not in the map).
    - A method whose sum is the answer's difference to a baseline, as of integrated gradients: ``baselines=``, for
      ``|answer - answer(baseline) - sum|``.
    - None of these: ``|answer - sum|``.

    Args:
        forward_func: gives logits ``[N, K]``.
        inputs: ``[N, ...]``.
        attributions: ``[N, ...]``.
        target: a class, a question, one for each example, or None for the predicted class.
        constant: a number, or ``[N]``.
        baselines: the method's baseline: a number, a name such as "mean", a tensor, or a function of the inputs,
            as in :func:`~xai_align.perturbation.perturbation_curve`.
        explanation: source of the attributions.

    Raises:
        MetricDoesNotApply: the explanation's values are not parts of the answer, as those of rankings and slopes.
        TargetError: the target is not understood, or the output does not have it.
        ValueError: the attributions or the constant are not finite or of another number of examples, or both
            ``constant`` and ``baselines`` are given.

    Example::

        x = images.clone().requires_grad_()
        gradients = torch.autograd.grad(model(x)[:, 281].sum(), x)[0]
        completeness_error(model, images, gradients * images, target=281, baselines=0.0)  # [2], in logits
    """
    check_finite("the attributions", attributions)
    _check_contributions(explanation)
    check_evaluation_mode(forward_func)
    if len(attributions) != len(inputs):
        raise ValueError(f"attributions of {len(attributions)} examples were given, and {len(inputs)} inputs")
    if constant is not None and baselines is not None:
        raise ValueError("constant and baselines both set the start of the sum; give one of them")
    with torch.no_grad():
        logits = select_logits(forward_func(inputs.clone()))
        questions = as_questions(logits.flatten(1).argmax(1) if target is None else target, len(inputs))
        answer = wide(answers(questions, logits))
        start: Tensor | float = 0.0
        if baselines is not None:
            start = wide(answers(questions, select_logits(forward_func(_baseline(baselines, inputs)))))
        elif constant is not None:
            start = _constant(constant, answer)
        elif explanation is not None and explanation.readout is not None:
            start = _stated_by(explanation.readout, attributions).to(answer)
        return (answer - (wide(attributions.detach()).flatten(1).sum(1).to(answer) + start)).abs()


def completeness_error_from_zeros(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    explanation: Explained | None = None,
) -> Tensor:
    """Compute :func:`completeness_error` with a baseline of zeros; ``[N]``, lower is better."""
    return completeness_error(forward_func, inputs, attributions, target=target, baselines=0.0, explanation=explanation)


def _check_contributions(explanation: Explained | None) -> None:
    """Raise if the method says that its values are not in logits, so that their sum cannot be compared."""
    values = getattr(explanation, "values", "contributions")
    if values != "contributions":
        method = getattr(explanation, "method", "the method")
        raise MetricDoesNotApply(f"the values of {method} are {values}, which do not add up to the answer")


def _baseline(baselines: Any, inputs: Tensor) -> Tensor:
    """Return the inputs with everything replaced."""
    everything = torch.ones(len(inputs), *([1] * (inputs.dim() - 1)), dtype=torch.bool, device=inputs.device)
    return filler(baselines, inputs)(torch.arange(len(inputs), device=inputs.device), everything.expand_as(inputs))


def _constant(constant: Tensor | float, answer: Tensor) -> Tensor:
    stated = torch.as_tensor(constant).detach().to(answer)
    if stated.shape not in ((), answer.shape):
        raise ValueError(f"the constant has shape {list(stated.shape)}; give a number, or [{len(answer)}]")
    check_finite("the constant", stated)
    return stated


def _stated_by(readout: Readout, attributions: Tensor) -> Tensor:
    """Return the part of the answer that the readout says is not in the map."""
    stated = wide(readout.bias) + wide(readout.around)
    in_the_map = isinstance(readout.contributions, Tensor) and readout.contributions.shape == attributions.shape
    return stated if in_the_map else stated + wide(readout.prefix)
