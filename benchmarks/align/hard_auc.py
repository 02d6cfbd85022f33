"""Area under the ROC curve of yes-or-no answers."""

from __future__ import annotations

import torch
from torch import Tensor


def hard_auc(predicted: Tensor, labels: Tensor) -> float:
    """Return the area under the ROC curve of yes-or-no answers, ``(recall + specificity) / 2``, mean over classes."""
    areas = []
    for k in labels.unique():
        own = labels == k
        recall, specificity = (predicted[own] == k).double().mean(), (predicted[~own] != k).double().mean()
        areas.append((recall + specificity) / 2)
    return float(torch.stack(areas).mean())
