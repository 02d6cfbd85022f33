"""Validation of a model in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from xai_align.pinet.network.losses import PiNetLoss
from xai_align.pinet.rounding import wide
from xai_align.training.pinet.batches import BatchSource
from xai_align.training.pinet.metric import FittingMetric
from xai_align.training.precision import autocast


@torch.no_grad()
def validate(
    model: nn.Module,
    data: Dataset[Any],
    source: BatchSource,
    *,
    loss: PiNetLoss,
    metric: FittingMetric,
    batch_size: int,
) -> tuple[float, float]:
    """Compute the loss and the metric over the validation data; every process evaluates its share.

    The loss consists of the weighted terms without a second forward pass: prediction and distillation.
    """
    model.eval()
    sums = wide(torch.zeros(2, device=source.device))
    counts: Tensor | None = None
    for raw in source.share_of(data, batch_size):
        batch = loss.labelled(source.on_device(raw))
        with autocast(source.device, source.precision):
            seen = model.explain(batch.images)  # type: ignore[operator]
        value = wide(loss.of_answer(seen, batch))
        sums += torch.stack([value * len(batch.images), value.new_tensor(len(batch.images))])
        found = metric.counts(seen, batch)
        counts = found if counts is None else counts + found
    if counts is None:  # more processes than examples
        counts = wide(torch.zeros(metric.width(source.collate.classes), device=source.device))
    total, count = source.group.sum(sums).tolist()
    return total / count, metric.value(source.group.sum(counts))
