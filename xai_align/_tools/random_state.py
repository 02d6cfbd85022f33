"""The process's random numbers, in one place: of torch on every device in use, of numpy and of Python."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

#: Held while a block seeds and draws. The thread that holds it can enter another such block.
ONE_AT_A_TIME = threading.RLock()


class RandomState(NamedTuple):
    """The state of every generator that belongs to the process.

    Attributes:
        python, numpy: of the modules ``random`` and ``numpy.random``.
        cpu: of torch's default generator.
        cuda: of each CUDA device, none where CUDA is not in use yet.
        mps: of Apple's GPU, None where there is none.
    """

    python: Any
    numpy: Any
    cpu: Tensor
    cuda: tuple[Tensor, ...]
    mps: Tensor | None

    @classmethod
    def now(cls) -> RandomState:
        """Return the present state."""
        return cls(
            random.getstate(),
            np.random.get_state(),
            torch.get_rng_state(),
            tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else (),
            torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        )

    def restore(self) -> None:
        """Make this the present state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))
        if self.mps is not None:
            torch.mps.set_rng_state(self.mps)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Put back the caller's random state at the end, whatever was drawn inside."""
    state = RandomState.now()
    try:
        try:
            yield
        finally:
            state.restore()
    finally:  # once more, if an interrupt met the first
        state.restore()


@contextmanager
def fixed_random_state(seed: int = 0) -> Iterator[None]:
    """Draw the same numbers inside at every call, for code that draws from the process's generators.

    Blocks of several threads wait for each other, so that each draws the numbers of
    its own seed; a thread that draws outside of such a block meanwhile gets in between.
    """
    with ONE_AT_A_TIME, kept_random_state():
        seed_all(seed)
        yield


def seed_all(seed: int) -> None:
    """Seed every generator of the process.

    As ``torch.manual_seed``, but quick enough for every step, and without waking devices that are not in use: that one
    keeps a note, with a stack trace, for a GPU that is not in use yet.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def mixed_seed(*seeds: int) -> int:
    """Return one seed that follows from several numbers."""
    return int(np.random.SeedSequence(seeds).generate_state(1)[0])
