"""Gradients through batch norm in PyTorch's order in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class ContiguousBatchNormGradients(TorchFunctionMode):
    """Mode in which the gradient of a batch norm's output is made contiguous.

    PyTorch 2.14 multiplies the gradient of one example on the CPU by other channels' scales if its axes lie in another
    order, as they do behind ``flatten(2).transpose(1, 2)``, where maps become tokens.

    Example::

        with ContiguousBatchNormGradients():
            tokens = nn.BatchNorm2d(8).eval()(maps).flatten(2).transpose(1, 2)
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation (called by PyTorch, with this mode disabled)."""
        result = func(*args, **(kwargs or {}))
        if func in (F.batch_norm, torch.batch_norm) and isinstance(result, Tensor) and result.requires_grad:
            result.register_hook(Tensor.contiguous)
        return result
