"""Mixed precision of forward passes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from xai_align.training.choices import Precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return the autocast context of forward passes."""
    if precision == "no":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def gradient_scaler(device: torch.device, precision: Precision) -> Any:
    """Return the scaler that float16 needs; None for other precisions.

    Raises:
        ValueError: float16 on a CPU.
    """
    if precision != "fp16":
        return None
    if device.type == "cpu":
        raise ValueError("fp16 is for GPUs; on a CPU choose mixed_precision='bf16'")
    return torch.amp.GradScaler(device.type)
