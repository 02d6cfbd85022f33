"""Sums over the steps of an epoch, kept on the device and read once, at its end."""

from __future__ import annotations

import torch
from torch import Tensor

from xai_align.align.training.micro_batches import ProcessGroup


class StepMeans:
    """Means by name.

    Args:
        device: device of the added values.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    def add(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        """Add a mean over a share ``weight`` of a step's examples."""
        value = value.detach().to(self._dtype) * weight
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._weights[name] = self._weights.get(name, 0.0) + weight

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the added values."""
        return tuple(self._sums)

    def values(self, names: tuple[str, ...], group: ProcessGroup) -> dict[str, float | None]:
        """Return the means over all processes; None for names that were never added."""
        zero = torch.zeros(
            (), device=self._device, dtype=torch.float32 if self._device.type == "mps" else torch.float64
        )
        sums = [self._sums.get(name, zero).to(zero) for name in names]
        weights = torch.tensor([self._weights.get(name, 0.0) for name in names]).to(zero)
        table = group.total(torch.stack([torch.stack(sums), weights])).tolist()
        return {name: total / weight if weight else None for name, total, weight in zip(names, *table, strict=True)}
