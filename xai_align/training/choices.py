"""Choices that every training loop of this project offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import nn

#: Of the forward passes; losses are float32 in any case. "fp16" is for GPUs.
Precision = Literal["no", "bf16", "fp16"]
#: The weights at the end: of the best validation, or the last ones.
Keep = Literal["best", "last"]
#: A folder that holds a checkpoint: go on; go on, or raise if there is none; raise, so that nothing is overwritten.
Resume = Literal["auto", "must", "never"]
#: Makes an optimiser over a list of parameters.
MakeOptimizer: TypeAlias = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]
