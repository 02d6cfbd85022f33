"""Running means over optimiser steps, kept on the device and read once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xai_align.training.process_group import ProcessGroup


class StepMeans:
    """Running means by name.

    Args:
        device: device of the added values.
    """

    def __init__(self, device: torch.device) -> None:
        self._zero = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    def add(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        """Add a mean over a share ``weight`` of a step's examples."""
        value = value.detach().to(self._zero) * weight
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._weights[name] = self._weights.get(name, 0.0) + weight

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the added values."""
        return tuple(self._sums)

    def values(self, names: Sequence[str], group: ProcessGroup) -> dict[str, float | None]:
        """Return the means over all processes; None for names that were never added."""
        sums = torch.stack([self._sums.get(name, self._zero) for name in names])
        weights = self._zero.new_tensor([self._weights.get(name, 0.0) for name in names])
        table = group.sum(torch.stack([sums, weights])).tolist()
        return {name: total / weight if weight else None for name, total, weight in zip(names, *table, strict=True)}
