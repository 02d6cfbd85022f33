"""The process's random numbers, for code of others that draws from nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

#: Held while a block seeds and draws. The thread that holds it can enter another such block.
ONE_AT_A_TIME = threading.RLock()


@contextmanager
def fixed_random_state(device: torch.device, seed: int = 0) -> Iterator[None]:
    """The same random numbers at every call, from torch and from numpy; the caller's are kept.

    Both states belong to the process. Blocks of several threads wait for each other, so that each draws the numbers of
    its own seed; a thread that draws outside of such a block meanwhile gets in between.
    """
    with ONE_AT_A_TIME:
        states = _states(device)
        try:
            try:
                # not torch.manual_seed: that would also seed devices which are not in use yet
                torch.default_generator.manual_seed(seed)
                if device.type == "cuda":
                    torch.cuda.default_generators[device.index or 0].manual_seed(seed)
                np.random.seed(seed)
                yield
            finally:
                _put_back(states, device)
        finally:  # once more, if an interrupt met the first
            _put_back(states, device)


def _states(device: torch.device) -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return np.random.get_state(), torch.get_rng_state(), cuda


def _put_back(states: tuple[Any, ...], device: torch.device) -> None:
    legacy, cpu, cuda = states
    np.random.set_state(legacy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda, device)
