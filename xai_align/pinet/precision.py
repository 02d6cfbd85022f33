"""Precision of a readout: a network that casts inside runs in one dtype, wide enough for its coefficients."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from xai_align._tools.full_precision import full_precision

_CASTS = {
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
    Tensor.float: torch.float32,
    Tensor.double: torch.float64,
}


class OneDtype(TorchFunctionMode):
    """Mode in which casts to any of ``narrow`` give ``dtype`` instead, as do new tensors; autocast has no effect.

    A copy of a network whose parameters are all of ``dtype`` needs it if the forward pass has a cast written out,
    such as ``self.block(x.bfloat16()).float()``: the cast would not match the copy's parameters.

    Example::

        with OneDtype(torch.float32, narrow=(torch.float16, torch.bfloat16)):
            torch.ones(2).half().dtype  # torch.float32
    """

    def __init__(self, dtype: torch.dtype, *, narrow: Iterable[torch.dtype]) -> None:
        super().__init__()
        self._dtype, self._narrow = dtype, frozenset(narrow)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _CASTS.get(func) in self._narrow:
            return args[0].to(self._dtype)
        args, kwargs = tree_map(self._widened, (args, kwargs or {}))
        with ExitStack() as stack:
            for device in ("cpu", "cuda", "mps", "xpu"):  # a region of the forward pass
                stack.enter_context(full_precision(device))
            return func(*args, **kwargs)

    def _widened(self, value: Any) -> Any:
        return self._dtype if isinstance(value, torch.dtype) and value in self._narrow else value
