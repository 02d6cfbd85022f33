"""Random numbers of one step, independent of how the step is shared among processes."""

from __future__ import annotations

import torch
from torch import Tensor

from xai_align._tools.drawn import integer_below, uniform
from xai_align.training.epoch_plan import derived_seed


class StepRandom:
    """Random numbers for one step, with a separate generator for each purpose.

    So turning off a term does not change the random numbers of others, and compared
    methods mix the same pairs of images.

    Args:
        generator: generator of this step, on the CPU, in the same state in all processes. One number is drawn from it.
        total: number of examples of the step over all processes.
        local: slice of this process's examples.
        device: device of the numbers.
    """

    def __init__(self, generator: torch.Generator, *, total: int, local: slice, device: torch.device) -> None:
        self._seed = integer_below(2**62, generator)
        self.total, self.local, self.device = total, local, device

    def generator(self, what: str) -> torch.Generator:
        """Return a new generator, on the CPU, for one purpose."""
        return torch.Generator().manual_seed(derived_seed(self._seed, what))

    def uniform(self, what: str, *shape: int) -> Tensor:
        """Return this process's part of the step's uniform numbers on [0, 1), ``[N, *shape]``, float32."""
        return uniform((self.total, *shape), self.generator(what))[self.local].to(self.device)
