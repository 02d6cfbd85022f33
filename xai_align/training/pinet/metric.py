"""Validation metrics: one number, from counts that add up over batches and processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xai_align.pinet.network.loss_formulas import Task
from xai_align.pinet.network.losses import Batch, Seen
from xai_align.pinet.rounding import wide


@dataclass(frozen=True)
class FittingMetric:
    """Validation metric of a task.

    multiclass, binary: accuracy. multilabel: F1 over all labels, where a class is predicted if its logit is above
    zero. regression: mean absolute error, in the target's unit. segmentation: mean intersection over union of the
    classes that occur.

    Attributes:
        task: the task.
        name: name of the metric.
        higher_is_better: whether a higher value is better.
    """

    task: Task
    name: str
    higher_is_better: bool = True

    def counts(self, seen: Seen, batch: Batch) -> Tensor:
        """Return sums over the batch (float64 if the device supports it); those of several batches are added."""
        logits, targets = seen.logits, batch.targets
        match self.task:
            case "multiclass":
                right = (logits.argmax(1) == targets).sum()
                return wide(torch.stack([right, right.new_tensor(len(logits))]))
            case "binary":
                right = ((logits > 0) == (targets > 0.5)).sum()
                return wide(torch.stack([right, right.new_tensor(len(logits))]))
            case "multilabel":
                named, there = logits > 0, targets > 0.5
                return wide(torch.stack([2 * (named & there).sum(), named.sum() + there.sum()]))
            case "regression":
                error = wide((logits - targets).abs())
                return torch.stack([error.sum(), error.new_tensor(error.numel())])
            case "segmentation":
                found, there = _class_maps(seen.coefficient_maps, targets)
                over = (found & there).sum((0, 2, 3)), (found | there).sum((0, 2, 3))
                return wide(torch.stack(over)).flatten()

    def width(self, classes: int) -> int:
        """Return the number of counts."""
        return 2 * classes if self.task == "segmentation" else 2

    def value(self, counts: Tensor) -> float:
        """Return the metric; NaN if there was nothing to measure."""
        above, below = counts.cpu().reshape(2, -1)
        some = below > 0
        return float((above[some] / below[some]).mean()) if some.any() else float("nan")

    def is_better(self, value: float, than: float) -> bool:
        """Return True if ``value`` is better; NaN is worse than anything."""
        if value != value:
            return False
        return than != than or (value > than if self.higher_is_better else value < than)

    def has_reached(self, value: float, goal: float) -> bool:
        """Return True if ``value`` is at least as good as ``goal``."""
        return value >= goal if self.higher_is_better else value <= goal


def metric_of(task: Task) -> FittingMetric:
    """Return the metric of a task."""
    names = {"multiclass": "accuracy", "binary": "accuracy", "multilabel": "f1", "regression": "mae"}
    return FittingMetric(task, names.get(task, "iou"), higher_is_better=task != "regression")


def _class_maps(maps: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return predicted and true class maps, bool ``[N, K, h, w]``."""
    classes = maps.shape[1]
    if targets.is_floating_point() or classes == 1:
        return maps > 0.5, (targets if targets.dim() == 4 else targets[:, None]) > 0.5
    numbers = torch.arange(classes, device=maps.device).reshape(1, -1, 1, 1)
    return maps.argmax(1, keepdim=True) == numbers, targets[:, None] == numbers
