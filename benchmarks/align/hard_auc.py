"""The area under the ROC curve of answers that are yes or no."""

from __future__ import annotations

import torch
from torch import Tensor


def hard_auc(predicted: Tensor, labels: Tensor) -> float:
    """The area under the ROC curve of answers that are yes or no, ``(recall + specificity) / 2``, mean over classes."""
    areas = []
    for k in labels.unique():
        own = labels == k
        recall, specificity = (predicted[own] == k).double().mean(), (predicted[~own] != k).double().mean()
        areas.append((recall + specificity) / 2)
    return float(torch.stack(areas).mean())
