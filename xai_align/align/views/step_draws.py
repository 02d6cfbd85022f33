"""The random numbers of one step: the same however the step is shared among processes."""

from __future__ import annotations

import torch
from torch import Tensor

from xai_align.training.epoch_plan import derived_seed


class StepDraws:
    """Random numbers for one step, a stream of its own for each purpose.

    So a term that is turned off leaves what the others draw as it is, and methods
    that are compared mix the same pairs of images.

    Args:
        generator: of this step, on the CPU, in the same state in all processes. One number is drawn from it.
        total: how many examples the step has over all processes.
        mine: which of them are looked at here.
        device: where the numbers are wanted.
    """

    def __init__(self, generator: torch.Generator, *, total: int, mine: slice, device: torch.device) -> None:
        self._seed = int(torch.randint(2**62, (), generator=generator))
        self.total, self.mine, self.device = total, mine, device

    def generator(self, what: str) -> torch.Generator:
        """A fresh generator, on the CPU, for one purpose."""
        return torch.Generator().manual_seed(derived_seed(self._seed, what))

    def uniform(self, what: str, *shape: int) -> Tensor:
        """``[N, *shape]``, float32, uniform on [0, 1): drawn for everyone, of which this is our part."""
        return torch.rand(self.total, *shape, generator=self.generator(what))[self.mine].to(self.device)
