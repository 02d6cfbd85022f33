"""Validation of a classifier in training, on data of the training domain."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.training.micro_batches import micro_batches_of, on_device
from xai_align.align.training.training_modes import TrainingModes
from xai_align.training.choices import Precision
from xai_align.training.precision import autocast
from xai_align.training.process_group import ProcessGroup

#: Names of the measures.
VALIDATED = ("validation_loss", "accuracy", "macro_accuracy", "worst_class")


@torch.no_grad()
def validate(
    classifier: nn.Module,
    batches: Iterable[TrainingBatch],
    *,
    classes: int,
    modes: TrainingModes,
    group: ProcessGroup,
    device: torch.device,
    precision: Precision,
) -> dict[str, float]:
    """Compute the mean cross-entropy, the accuracy, the mean of the classes' accuracies, and the lowest of them.

    Every process evaluates its share of each batch.
    """
    wide = torch.float32 if device.type == "mps" else torch.float64
    loss = torch.zeros((), device=device, dtype=wide)
    right, there = (torch.zeros(classes, device=device, dtype=wide) for _ in range(2))
    with modes.evaluating():
        for step in batches:
            for micro_batch in micro_batches_of(on_device(step, device), processes=group.count, rank=group.rank):
                batch = micro_batch.batch
                with autocast(device, precision):
                    # cloned: a network may write into its input, and the loader may give the same tensor again
                    logits = classifier(batch.images.clone())
                logits = logits.float()
                loss += F.cross_entropy(logits, batch.labels, reduction="sum")
                hits = (logits.argmax(1) == batch.labels).to(wide)
                right.index_add_(0, batch.labels, hits)
                there.index_add_(0, batch.labels, torch.ones_like(hits))
    return _measures(group.sum(torch.cat([loss.reshape(1), right, there])).cpu(), classes)


def _measures(sums: Tensor, classes: int) -> dict[str, float]:
    loss, right, there = sums[0], sums[1 : classes + 1], sums[classes + 1 :]
    known = there > 0
    per_class = right[known] / there[known]
    values = (loss / there.sum(), right.sum() / there.sum(), per_class.mean(), per_class.min())
    return dict(zip(VALIDATED, map(float, values), strict=True))
