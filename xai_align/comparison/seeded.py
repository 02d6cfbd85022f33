"""Chance that is the same each time, and leaves the caller's alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from xai_align._tools.global_random_state import ONE_AT_A_TIME
from xai_align._tools.model_state import unchanged_rng


@contextmanager
def seeded(*seed: int) -> Iterator[None]:
    """The random states of PyTorch, NumPy and Python start from these numbers inside, and are put back outside."""
    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    with ONE_AT_A_TIME, unchanged_rng():
        python, legacy = random.getstate(), np.random.get_state()
        torch.manual_seed(start)
        np.random.seed(start)
        random.seed(start)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
