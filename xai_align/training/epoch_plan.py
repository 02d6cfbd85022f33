"""Which examples go into which step: a function of the seed and the epoch, and of nothing else.

So an epoch can be repeated exactly, whatever was drawn from random generators
before, and two processes see in a step what one sees with twice the batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Piece:
    """What one process looks at in one forward pass.

    Attributes:
        indices: of the examples.
        share: the part that the mean over these examples has in the step's mean over all its examples, times
            the number of processes (whose gradients are averaged). It is zero for a process with nothing to
            do, which then looks at an example for company.
    """

    indices: tuple[int, ...]
    share: float


def steps_in_epoch(count: int, batch: int) -> int:
    """How many steps of about ``batch`` examples (of all processes and passes together) an epoch has."""
    return math.ceil(count / batch)


def epoch_plan(
    count: int, *, batch_size: int, passes: int = 1, processes: int = 1, rank: int = 0, seed: int, epoch: int
) -> list[list[Piece]]:
    """The steps of an epoch, each a list of ``passes`` pieces for this process.

    Every example is in exactly one step. The steps' sizes differ by one at most, so that no small rest
    upsets batch statistics or weighs an example more than others.

    Args:
        count: examples in the data set.
        batch_size: at most so many examples in a pass of a process.
        passes: forward passes whose gradients are added before a step.
        processes: how many share a step.
        rank: the number of this process.
        seed: of the shuffling.
        epoch: its number.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed(seed, "shuffle", epoch)))
    steps = order.tensor_split(steps_in_epoch(count, batch_size * passes * processes))
    return [[_piece(step, part.tensor_split(processes)[rank], processes) for part in step.tensor_split(passes)]
            for step in steps]  # fmt: skip


def _piece(step: torch.Tensor, mine: torch.Tensor, processes: int) -> Piece:
    indices = mine if len(mine) else step[:1]
    return Piece(tuple(indices.tolist()), len(mine) * processes / len(step))


def derived_seed(seed: int, *what: object) -> int:
    """A seed for one purpose, from the run's seed; different purposes have unrelated ones."""
    digest = hashlib.sha256(repr((seed, *what)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


@dataclass
class EpochBatches:
    """A batch sampler: the pieces of the present epoch, one after the other."""

    plan: list[list[Piece]] = field(default_factory=list)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(piece.indices) for step in self.plan for piece in step)

    def __len__(self) -> int:
        return sum(map(len, self.plan))
