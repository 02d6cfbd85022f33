"""Check of labels: one class of the model for each image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xai_align._tools.counted import counted


def check_classes(labels: Any, logits: Tensor) -> None:
    """Raise if ``labels`` are not one class for each row of ``logits`` ``[N, K]``.

    The range is checked on the CPU only: on other devices the check would force a synchronisation.

    Raises:
        TypeError: they are not a tensor.
        ValueError: shape or dtype are wrong, or a label is out of range.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"the labels are a {type(labels).__name__}; give an int64 tensor [N]")
    if labels.dtype != torch.int64 or labels.shape != logits.shape[:1]:
        also = "; take labels.argmax(1) of one-hot rows" if labels.dim() == 2 else ""
        raise ValueError(
            f"the labels have shape {list(labels.shape)} and type {labels.dtype} for {counted(len(logits), 'image')}; "
            f"give one class each, int64 [{len(logits)}]{also}"
        )
    classes = logits.shape[1]
    if labels.device.type == "cpu" and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(
            f"a label is {int(wrong)}, but the classifier has classes 0 … {classes - 1}; number the classes from 0"
        )
