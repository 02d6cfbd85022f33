"""Precision of trained weights, and mixed precision of forward passes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

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


def check_precision(trained: Mapping[str, nn.Parameter]) -> None:
    """Raise if weights are to be trained in float16, in which fits diverge.

    Its smallest positive number is 6e-8. AdamW's ``eps`` of 1e-8 is 0 there, and so are squares of gradients below
    1e-4, so steps are divided by 0.

    Raises:
        ValueError: a parameter is float16.
    """
    odd = [name for name, one in trained.items() if one.dtype == torch.float16]
    if odd:
        raise ValueError(
            f"parameter '{odd[0]}' is float16, in which training diverges: small gradients and steps are rounded to "
            "0. Give float32 weights, model.float(); for passes in half precision add mixed_precision='bf16', or "
            "'fp16' on a GPU"
        )


def rounding_notes(trained: Mapping[str, nn.Parameter]) -> list[str]:
    """Return a note if weights are trained in bfloat16, whose 8 significant bits lose small steps."""
    odd = [name for name, one in trained.items() if one.dtype == torch.bfloat16]
    if not odd:
        return []
    return [
        f"parameter '{odd[0]}' is bfloat16: steps smaller than 1/512 of a weight are lost to rounding; float32 "
        "weights, model.float(), with mixed_precision='bf16' lose none"
    ]
