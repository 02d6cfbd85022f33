"""Conformance check of attribution classes, after scikit-learn's ``check_estimator``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from xai_align._tools.did_you_mean import did_you_mean
from xai_align.plugins import conformance
from xai_align.testing.subject import Check, Subject
from xai_align.testing.table import CORE_CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Status = Literal["passed", "skipped", "not kept"]


class ConformanceError(AssertionError):
    """Error of a failed check; the message has the check, what was found and what to do.

    Attributes:
        check: the name of the check.

    Example::

        def constant(forward_func, inputs, attributions, *, target=None):
            return 0.0

        try:
            check_metric(constant)
        except ConformanceError as error:
            error.check  # "values": a metric returns a tensor [N]
    """

    def __init__(self, message: str, check: str) -> None:
        super().__init__(message)
        self.check = check


@dataclass(frozen=True)
class Outcome:
    """Result of a check. ``not kept``: an optional check failed, and ``found`` has the reason.

    Example::

        outcomes = check_attribution(PiNetAttribution)
        [(outcome.check, outcome.found) for outcome in outcomes if outcome.status == "not kept"]
    """

    check: str
    status: Status
    found: str = ""


def check_attribution(
    cls: Any,
    *,
    build: Callable[[nn.Module], Any] | None = None,
    options: Mapping[str, Any] | None = None,
    require: Iterable[str] = (),
    skip: Iterable[str] = (),
    device: str | torch.device = "cpu",
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> list[Outcome]:
    """Check that an attribution class keeps the conventions that pipelines rely on.

    The class is run on tiny networks for images ``[N, 3, 8, 10]`` that come
    with this package; nothing else is needed. The first broken convention
    raises. See :func:`conformance_checks` for the list.

    Args:
        cls: the class, or any factory; ``cls(model)`` has ``attribute(inputs, target=...)``.
        build: a factory ``build(model)``, where ``cls(model)`` is not enough.
        options: passed to every ``attribute`` call, e.g. ``{"n_steps": 20}``.
        require: names of optional checks that must hold too.
        skip: names of checks that are not run.
        device: device of the networks and images.
        rtol: relative tolerance within which attributions are equal.
        atol: absolute tolerance; relative to the largest attribution where that is above 1.

    Returns:
        The outcome of every check, for a report.

    Raises:
        ConformanceError: (an AssertionError) names the check, what was found, what to do.
        ValueError: ``require`` or ``skip`` names no check.

    Example::

        check_attribution(PiNetAttribution, require=["numpy_targets"])
    """
    checks = _all_checks()
    required, skipped = _known(require, checks, "require"), _known(skip, checks, "skip")
    subject = Subject(
        build=build or cls, options=dict(options or {}), device=torch.device(device), rtol=rtol, atol=atol
    )
    return [_outcome(cls, check, subject, required, skipped) for check in checks.values()]


def conformance_checks() -> dict[str, str]:
    """Return the name of every check with its convention in one line; optional ones are marked.

    Example::

        conformance_checks()["shape"]  # "A tensor in gives a finite tensor of the same shape"
    """
    return {name: check.summary + (" [optional]" if check.optional else "") for name, check in _all_checks().items()}


def _outcome(cls: Any, check: Check, subject: Subject, required: set[str], skipped: set[str]) -> Outcome:
    if check.name in skipped:
        return Outcome(check.name, "skipped")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of a method are not checked
            check.run(subject)
    except Exception as error:
        answered = type(error) is AssertionError
        found = str(error) if answered else f"{type(error).__name__}: {error}"
        if check.optional and check.name not in required:
            return Outcome(check.name, "not kept", found)
        advice = check.advice if answered else f"the call itself raised (traceback above); {check.advice}"
        raise ConformanceError(
            f"{_name(cls)} fails the check '{check.name}': {check.summary}.\nFound: {found}\nTo do: {advice}.",
            check.name,
        ) from error
    return Outcome(check.name, "passed")


def _all_checks() -> dict[str, Check]:
    return {check.name: check for check in (*CORE_CHECKS, *conformance.conformance_checks(Check))}


def _known(names: Iterable[str], checks: Mapping[str, Check], argument: str) -> set[str]:
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in checks:
            near = did_you_mean(name, checks)
            raise ValueError(f"{argument} names '{name}', no check{near} Checks: {', '.join(checks)}")
    return set(names)


def _name(cls: Any) -> str:
    if isinstance(cls, partial):
        return f"{_name(cls.func)}({', '.join(map(repr, cls.args))})"
    return str(getattr(cls, "__name__", None) or type(cls).__name__)
