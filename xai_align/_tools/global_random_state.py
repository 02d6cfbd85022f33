"""The process's random numbers, for code of others that draws from nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
        numpy_state, devices = np.random.get_state(), [device.index or 0] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            # not torch.manual_seed: that would also seed devices which are not in use yet
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                torch.cuda.default_generators[device.index or 0].manual_seed(seed)
            np.random.seed(seed)
            try:
                yield
            finally:
                np.random.set_state(numpy_state)
