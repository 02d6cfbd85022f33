"""What is checked and what a check is."""

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
    """What is checked: how to build it, and what to hand to every ``attribute`` call."""

    build: Callable[[nn.Module], Any]
    options: dict[str, Any] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rtol: float = 1e-4
    atol: float = 1e-5

    def network(self, last: nn.Module | None = None) -> TinyNetwork:
        """A fresh tiny network on the device."""
        return TinyNetwork(last).to(self.device)

    def images(self, number: int = 3, *, seed: int = 7) -> Tensor:
        """Example images on the device."""
        return fixed_images(number, seed=seed).to(self.device)

    def attribute(self, network: nn.Module, inputs: Any, **arguments: Any) -> Any:
        """The answer for a network."""
        return self.build(network).attribute(inputs, **arguments, **self.options)

    def close(self, a: Tensor, b: Tensor) -> bool:
        """Whether two attributions are the same but for rounding."""
        return a.shape == b.shape and torch.allclose(a, b.to(a), rtol=self.rtol, atol=self.atol * _scale(a))


@dataclass(frozen=True, kw_only=True)
class Check:
    """One convention, which the docstring of ``run`` says in a line. It raises an AssertionError if broken.

    An optional check is reported, and fails only where it is required: Captum's
    own methods do not all keep it.
    """

    run: Callable[[Subject], None]
    advice: str
    optional: bool = False

    @property
    def name(self) -> str:
        """The name by which it is required, skipped and reported."""
        return self.run.__name__

    @property
    def summary(self) -> str:
        """The convention in a line."""
        return (inspect.getdoc(self.run) or "").rstrip(".")


def demand(holds: bool, found: str) -> None:
    """Raise an AssertionError that says what was found, unless it holds."""
    if not holds:
        raise AssertionError(found)


def kind(value: Any) -> str:
    """``value`` by its type."""
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference between two attributions."""
    return float((a - b).detach().abs().max()) if a.shape == b.shape else float("nan")


def _scale(a: Tensor) -> float:
    """So that the tolerance is one of the size of the numbers."""
    return max(1.0, float(a.detach().abs().max())) if a.numel() else 1.0
