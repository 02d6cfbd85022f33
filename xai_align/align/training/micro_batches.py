"""Split of a step's examples over processes and forward passes, and reduction of their gradients.

The mean over a step's examples is a weighted sum of the means over its parts. So
two processes, or two passes, give the same gradient as one. The reduction is explicit,
on one flat tensor, because a step has two networks, several forward passes and frozen
parameters, which wrappers that hook into ``backward`` do not support well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xai_align.align.forward_passes.training_batch import GlobalBatch, TrainingBatch
from xai_align.training.process_group import ProcessGroup


@dataclass
class MicroBatch:
    """Examples of one process in one forward pass.

    Attributes:
        batch: the examples.
        global_batch: all of the step's examples, if these are not all.
        share: their share of the step's examples, between 0 and 1.
        masks: ``[N, 1, H, W]``: the masks from the masker's own step, so that it need not run again.
    """

    batch: TrainingBatch
    global_batch: GlobalBatch | None = None
    share: float = 1.0
    masks: Tensor | None = None


def joined(batches: Sequence[TrainingBatch]) -> TrainingBatch:
    """Concatenate several batches."""
    if len(batches) == 1:
        return batches[0]
    shapes = {tuple(batch.images.shape[1:]) for batch in batches}
    if len(shapes) > 1:
        raise ValueError(f"a step's batches hold images of several shapes, {sorted(shapes)}; bring them to one size")
    masks = [batch.masks for batch in batches]
    indices = [batch.indices for batch in batches]
    return TrainingBatch(
        images=torch.cat([batch.images for batch in batches]),
        labels=torch.cat([batch.labels for batch in batches]),
        masks=None if any(one is None for one in masks) else torch.cat([one for one in masks if one is not None]),
        indices=None if any(one is None for one in indices) else torch.cat([i for i in indices if i is not None]),
    )


def micro_batches_of(step: TrainingBatch, *, passes: int = 1, processes: int = 1, rank: int = 0) -> list[MicroBatch]:
    """Return this process's micro-batches of a step; there may be none if examples are few."""
    numbers = torch.arange(len(step.labels))
    local = [part.tensor_split(processes)[rank] for part in numbers.tensor_split(passes)]
    return [_micro_batch(step, int(part[0]), len(part)) for part in local if len(part)]


def _micro_batch(step: TrainingBatch, start: int, count: int) -> MicroBatch:
    if count == len(step.labels):
        return MicroBatch(step)
    here = slice(start, start + count)
    batch = TrainingBatch(
        images=step.images[here],
        labels=step.labels[here],
        masks=None if step.masks is None else step.masks[here],
        indices=None if step.indices is None else step.indices[here],
    )
    return MicroBatch(batch, GlobalBatch(step.images, step.labels, start, step.masks), count / len(step.labels))


def on_device(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    """Move the batch to the model's device."""
    if all(one is None or one.device == device for one in (batch.images, batch.labels, batch.masks, batch.indices)):
        return batch
    return TrainingBatch(
        images=batch.images.to(device, non_blocking=True),
        labels=batch.labels.to(device, non_blocking=True),
        masks=None if batch.masks is None else batch.masks.to(device, non_blocking=True),
        indices=None if batch.indices is None else batch.indices.to(device, non_blocking=True),
    )


class Gradients:
    """Sums of a loss and its gradients over a step's micro-batches and then over the processes.

    Args:
        parameters: the parameters, in the order of the gradients.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._sums: list[Tensor | None] = [None] * len(self._parameters)
        self._loss = torch.zeros((), device=self._parameters[0].device, dtype=_widest(self._parameters))

    def add(self, loss: Tensor, *, scale: Callable[[Tensor], Tensor]) -> None:
        """Add a loss that was weighted by its part's share, and its gradients; unused parameters have none.

        Args:
            loss: a scalar.
            scale: loss scale for gradients in half precision.
        """
        self._loss = self._loss + loss.detach()
        if not loss.requires_grad:
            return
        found = torch.autograd.grad(scale(loss), self._parameters, allow_unused=True)
        self._sums = [two if one is None else one if two is None else one + two
                      for one, two in zip(self._sums, found, strict=True)]  # fmt: skip

    def total(self, group: ProcessGroup) -> tuple[list[Tensor | None], Tensor]:
        """Return the sums over all micro-batches of all processes: gradients, and the loss."""
        loss, *gradients = group.sum_all([self._loss, *self._sums], [self._loss, *self._parameters])
        assert loss is not None
        return gradients, loss


def _widest(tensors: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(one.dtype == torch.float64 for one in tensors) else torch.float32
