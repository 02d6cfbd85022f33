"""Random numbers that depend on their generator alone, and not on PyTorch's default dtype and device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return standard normal numbers, float32, on the generator's device."""
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device=generator.device)


def uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return uniform numbers on [0, 1), float32, on the generator's device."""
    return torch.rand(tuple(shape), generator=generator, dtype=torch.float32, device=generator.device)


def permutation(count: int, generator: torch.Generator) -> Tensor:
    """Return 0 … count - 1 in random order, int64, on the generator's device."""
    return torch.randperm(count, generator=generator, device=generator.device)


def integer_below(most: int, generator: torch.Generator) -> int:
    """Return one of 0 … most - 1."""
    return int(torch.randint(most, (1,), generator=generator, device=generator.device))


def noise_like(x: Tensor, seed: int = 0) -> Tensor:
    """Return standard normal noise of the shape, dtype and device of ``x``, the same numbers on every device.

    It comes from a generator of its own, because other threads share the global random state.

    Example::

        noise_like(images, seed=1)
    """
    return normal(x.shape, torch.Generator().manual_seed(seed)).to(x)
