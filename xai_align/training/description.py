"""Configuration values that a resumed run compares with those of its checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn


def described_optimizer(optimizer: torch.optim.Optimizer, *, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Return the kind of an optimiser and the plain options of its groups, as JSON has them.

    Args:
        optimizer: as it was made, or as it is now.
        leave_out: options that change during a run, such as the learning rate.
    """
    groups = [
        {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in group.items()
            if name not in ("params", *leave_out)
            and (value is None or isinstance(value, bool | int | float | list | tuple))
        }
        for group in optimizer.param_groups
    ]
    return {"kind": type(optimizer).__name__, "groups": {str(number): group for number, group in enumerate(groups)}}


def described_parameters(trained: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """Return dtype and shape of each parameter: ``{"fc.weight": "float32 [5, 8]"}``."""
    return {name: f"{str(p.dtype).removeprefix('torch.')} {list(p.shape)}" for name, p in trained.items()}
