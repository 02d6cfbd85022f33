"""Conformance check of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align.evaluation.agreement import Scored
from xai_align.evaluation.does_not_apply import MetricDoesNotApply
from xai_align.hookspecs import MetricSpec
from xai_align.plugins.metric_signature import call_problem, needs_of
from xai_align.question import Question
from xai_align.testing.conformance import ConformanceError
from xai_align.testing.networks import TinyNetwork, fixed_images
from xai_align.testing.traces import differences, snapshot, snapshot_of_inputs

#: A class for each of the three example images.
TARGETS = (1, 3, 0)


def check_metric(
    metric: MetricSpec | Callable[..., Any],
    *,
    options: Mapping[str, Any] | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> None:
    """Check that a metric keeps the conventions that comparisons rely on.

    It is run on a tiny network, three images ``[3, 3, 8, 10]`` and their maps. The first broken convention raises:

    - "signature": it can be called as ``evaluate(forward_func, inputs, attributions, target=...)``; further parameters
      without a default are among those that a comparison offers;
    - "values": it returns one number per example, a detached floating tensor ``[N]``, none of them infinite;
    - "questions": it takes a list with one :class:`~xai_align.Question` for each example;
    - "repeatable": it returns the same values when called again;
    - "batch mates": an example's value does not depend on the others;
    - "no gradient": it runs under ``torch.no_grad()``;
    - "no trace": model, inputs, attributions and random state are as before.

    Args:
        metric: a record, or its ``evaluate``.
        options: passed to every call, e.g. ``{"n_steps": 4}``.
        rtol: relative tolerance within which values are equal.
        atol: absolute tolerance.

    Raises:
        ConformanceError: (an AssertionError) names the check, what was found, what to do.

    Example::

        def size(forward_func, inputs, attributions, *, target=None):
            return attributions.abs().flatten(1).mean(1)  # [N]

        check_metric(size)
    """
    evaluate = metric.evaluate if isinstance(metric, MetricSpec) else metric
    if not callable(evaluate):
        raise TypeError(f"check_metric takes a MetricSpec or its evaluate, not a {type(metric).__name__}")
    subject = _Subject(evaluate, dict(options or {}))
    problem = call_problem(evaluate) if not options else ""
    _demand(not problem, "signature", problem, "take target=None as a keyword, and give what else is needed a default")
    model, images, maps = TinyNetwork(), fixed_images(), _maps()
    before = (snapshot(model), snapshot_of_inputs((images, maps)))
    values = subject(model, images, maps, list(TARGETS))
    left = [*differences(before[0], snapshot(model)), *differences(before[1], snapshot_of_inputs((images, maps)))]
    _check_values(values, len(images))
    _demand(not left, "no trace", "; ".join(left), "work on copies, and restore what you change")
    _demand(not values.requires_grad, "values", "the values still require grad", "return values.detach()")

    def same(name: str, advice: str, target: list[Any], *, single: bool = False) -> None:
        try:
            if single:
                parts = [subject(model, images[i : i + 1], maps[i : i + 1], [target[i]]) for i in range(len(images))]
                found = torch.cat(parts)
            else:
                found = subject(model, images, maps, target)
        except MetricDoesNotApply:
            raise
        except Exception as error:
            found_text = f"{type(error).__name__}: {error}"
            raise ConformanceError(_message(name, found_text, advice), name) from error
        close = torch.allclose(found.double(), values.double(), rtol=rtol, atol=atol, equal_nan=True)
        _demand(close, name, f"{found.tolist()} and {values.tolist()}", advice)

    labels = list(TARGETS)
    same("questions", "read targets with xai_align.question.as_questions", [Question.why(one) for one in labels])
    same("repeatable", "draw from a separate generator with a fixed seed", labels)
    same("batch mates", "normalise within each example, not over the batch", labels, single=True)
    with torch.no_grad():
        same("no gradient", "switch gradients on where you need them (torch.enable_grad)", labels)


class _Subject:
    """Metric with the optional arguments that it takes."""

    def __init__(self, evaluate: Callable[..., Any], options: dict[str, Any]) -> None:
        self.evaluate, self.options, self.needs = evaluate, options, needs_of(evaluate)

    def __call__(self, model: nn.Module, images: Tensor, maps: Tensor, target: Any) -> Tensor:
        def explain_model(other: nn.Module, inputs: Tensor, target: Any) -> Tensor:
            return _maps(len(inputs)) if other is model else _maps(len(inputs)).flip(-1)

        size = images.shape[-2:]
        mask = torch.zeros(len(images), *size, dtype=torch.bool, device=images.device)
        mask[:, : size[0] // 2] = True
        offers: dict[str, Any] = {
            "explain": lambda inputs, target: explain_model(model, inputs, target),
            "explain_model": explain_model,
            "explanation": None,
            "boxes": [torch.tensor([[0.0, 0.0, float(size[1]), size[0] / 2]])] * len(images),
            "masks": mask,
            "scores": [Scored(values=torch.tensor([1.0, -2.0]), labels=(~one).long()) for one in mask.cpu()],
            "other_images": fixed_images(12, seed=5),
            "internal_batch_size": 2,
        }
        given = {name: value for name, value in offers.items() if name in self.needs} | self.options
        return self.evaluate(model, images, maps, target=target, **given)


def _maps(count: int = 3) -> Tensor:
    """Return maps without ties and with both signs."""
    images = fixed_images(count, seed=11)
    return images - images.flatten(1).median(1).values[:, None, None, None]


def _check_values(values: Any, count: int) -> None:
    found = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
    fits = isinstance(values, Tensor) and values.is_floating_point() and values.shape == (count,)
    _demand(
        fits, "values", f"it gave {found} for {counted(count, 'image')}", f"return a floating tensor of shape [{count}]"
    )
    missing = all(math.isnan(value) for value in values.tolist())
    _demand(not missing, "values", "every value is NaN", "return the values that are defined")
    infinite = [value for value in values.tolist() if math.isinf(value)]
    _demand(not infinite, "values", f"it gave {values.tolist()}", "return NaN where there is no value")


def _demand(holds: bool, check: str, found: str, advice: str) -> None:
    if not holds:
        raise ConformanceError(_message(check, found, advice), check)


def _message(check: str, found: str, advice: str) -> str:
    return f"the metric fails the check '{check}'.\nFound: {found}\nTo do: {advice}."
