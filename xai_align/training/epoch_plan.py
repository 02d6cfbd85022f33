"""Assignment of examples to steps, as a function of the seed and the epoch only.

So an epoch can be repeated exactly, independent of earlier random numbers, and
two processes have the same examples in a step as one with twice the batch.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch

from xai_align._tools.drawn import permutation


@dataclass(frozen=True)
class Shard:
    """Examples of one process in one forward pass.

    Attributes:
        indices: indices of the examples.
        share: weight of the mean over these examples in the step's mean over all its examples. It is zero for a
            process without examples, which then gets one as a placeholder.
    """

    indices: tuple[int, ...]
    share: float


def steps_in_epoch(count: int, batch: int) -> int:
    """Return the number of steps in an epoch, of about ``batch`` examples over all processes and passes."""
    return math.ceil(count / batch)


def epoch_plan(
    count: int, *, batch_size: int, passes: int = 1, processes: int = 1, rank: int = 0, seed: int, epoch: int
) -> list[list[Shard]]:
    """Return the steps of an epoch, each a list of ``passes`` shards for this process.

    Every example is in exactly one step. The steps' sizes differ by at most one, so that no small last step
    distorts batch statistics or gives an example more weight than others.

    Args:
        count: number of examples in the data set.
        batch_size: maximum number of examples in a forward pass of a process.
        passes: number of forward passes whose gradients are accumulated for a step.
        processes: number of processes that share a step.
        rank: rank of this process.
        seed: seed of the shuffling.
        epoch: number of the epoch.
    """
    order = permutation(count, torch.Generator().manual_seed(derived_seed(seed, "shuffle", epoch)))
    steps = order.tensor_split(steps_in_epoch(count, batch_size * passes * processes))
    return [[_shard(step, part.tensor_split(processes)[rank]) for part in step.tensor_split(passes)] for step in steps]


def _shard(step: torch.Tensor, local: torch.Tensor) -> Shard:
    indices = local if len(local) else step[:1]
    return Shard(tuple(indices.tolist()), len(local) / len(step))


def derived_seed(seed: int, *what: object) -> int:
    """Derive a seed for one purpose from the run's seed; different purposes have independent ones."""
    digest = hashlib.sha256(repr((seed, *what)).encode()).digest()
    return int.from_bytes(digest[:7], "big")
