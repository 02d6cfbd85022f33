"""The global random state: torch's generators on every device in use, numpy's and Python's."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

#: Held while a block seeds and draws; reentrant, so that such blocks can be nested.
ONE_AT_A_TIME = threading.RLock()


class RandomState(NamedTuple):
    """State of all global generators.

    Attributes:
        python, numpy: the states of ``random`` and ``numpy.random``.
        cpu: the state of torch's default generator.
        cuda: the state of each CUDA device, empty if CUDA is not initialised.
        mps: the state of Apple's GPU, None if there is none.
    """

    python: Any
    numpy: Any
    cpu: Tensor
    cuda: tuple[Tensor, ...]
    mps: Tensor | None

    @classmethod
    def now(cls) -> RandomState:
        """Return the current state."""
        return cls(
            random.getstate(),
            np.random.get_state(),
            torch.get_rng_state(),
            tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else (),
            torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        )

    def restore(self) -> None:
        """Make this the current state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))
        if self.mps is not None:
            torch.mps.set_rng_state(self.mps)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore the caller's random state at the end of the block."""
    state = RandomState.now()
    try:
        try:
            yield
        finally:
            state.restore()
    finally:  # again, in case an interrupt stopped the first
        state.restore()


@contextmanager
def fixed_random_state(seed: int = 0) -> Iterator[None]:
    """Fix the random numbers in the block, for code that draws from the global generators.

    Blocks of several threads wait for each other, so that each draws the numbers of
    its own seed; a thread that draws outside such a block can still interfere.
    """
    with ONE_AT_A_TIME, kept_random_state():
        seed_all(seed)
        yield


def seed_all(seed: int) -> None:
    """Seed all global generators.

    Like ``torch.manual_seed``, but fast enough to call at every step: that one queues a lazy call, with a stack trace,
    for a GPU that is not initialised yet.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def mixed_seed(*seeds: int) -> int:
    """Return one seed derived from several numbers."""
    return int(np.random.SeedSequence(seeds).generate_state(1)[0])
