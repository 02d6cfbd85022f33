"""Records of a conformance check: the method under test, and a single check."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xai_align.testing.networks import TinyNetwork, fixed_images

if TYPE_CHECKING:
    from collections.abc import Callable

#: A class for each of the three example images.
TARGETS = (1, 3, 0)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Method under test: its factory, and the options passed to every ``attribute`` call.

    Example::

        subject = Subject(build=PiNetAttribution)
        subject.attribute(subject.network(), subject.images(), target=1)  # [3, 3, 8, 10]
    """

    build: Callable[[nn.Module], Any]
    options: dict[str, Any] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rtol: float = 1e-4
    atol: float = 1e-5

    def network(self, last: nn.Module | None = None) -> TinyNetwork:
        """Return a new tiny network on the device."""
        return TinyNetwork(last).to(self.device)

    def images(self, number: int = 3, *, seed: int = 7) -> Tensor:
        """Return example images on the device."""
        return fixed_images(number, seed=seed).to(self.device)

    def attribute(self, network: nn.Module, inputs: Any, **arguments: Any) -> Any:
        """Return the attributions for a network."""
        return self.build(network).attribute(inputs, **arguments, **self.options)

    def close(self, a: Tensor, b: Tensor) -> bool:
        """Return True if two attributions are equal up to rounding."""
        return a.shape == b.shape and torch.allclose(a, b.to(a), rtol=self.rtol, atol=self.atol * _scale(a))


@dataclass(frozen=True, kw_only=True)
class Check:
    """Check of one convention; ``run``, whose docstring states it, raises an AssertionError if it is broken.

    The failure of an optional check is reported, and raises only where the check is
    required: not all of Captum's own methods keep it.

    Example::

        def finite(subject):
            \"\"\"Attributions are finite.\"\"\"
            found = subject.attribute(subject.network(), subject.images(), target=1)
            assert found.isfinite().all(), f"{(~found.isfinite()).sum()} values are not finite"

        Check(run=finite, advice="divide by a number that is not zero").summary  # "Attributions are finite"
    """

    run: Callable[[Subject], None]
    advice: str
    optional: bool = False

    @property
    def name(self) -> str:
        """Name by which the check is required, skipped and reported."""
        return self.run.__name__

    @property
    def summary(self) -> str:
        """Convention in one line."""
        return (inspect.getdoc(self.run) or "").rstrip(".")


def demand(holds: bool, found: str) -> None:
    """Raise an AssertionError with the message ``found`` unless ``holds`` is true."""
    if not holds:
        raise AssertionError(found)


def kind(value: Any) -> str:
    """Return the type of ``value`` as text."""
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference between two attributions."""
    return float((a - b).detach().abs().max()) if a.shape == b.shape else float("nan")


def _scale(a: Tensor) -> float:
    """Return the scale of the absolute tolerance, at least 1."""
    return max(1.0, float(a.detach().abs().max())) if a.numel() else 1.0
