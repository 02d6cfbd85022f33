"""Precision of a readout: a network that casts inside runs in one dtype, wide enough for its coefficients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from xai_align._tools.full_precision import full_precision
from xai_align._tools.replica import LOW_PRECISION, Replica

_CASTS = {
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
    Tensor.float: torch.float32,
    Tensor.double: torch.float64,
}


@dataclass
class Precision:
    """Precision of one attempt at a readout.

    Attributes:
        dtype: dtype of the replica and its inputs; None: the model's.
        every: whether parameters of any floating dtype are converted, or only those of low precision.
        own: whether the model itself is in this precision, so that its logits must be reproduced.
        replaces_casts: whether the forward pass's own casts are replaced; a replica that needs it sets it.
    """

    dtype: torch.dtype | None = None
    every: bool = False
    own: bool = True
    replaces_casts: bool = False

    def copy_of(self, model: nn.Module) -> Replica:
        """Return a replica of the model in this precision."""
        return Replica(model, dtype=self.dtype, every=self.every)

    def of(self, value: Any) -> Any:
        """Return a tensor without graph, in this precision; any other value as it is."""
        if not isinstance(value, Tensor):
            return value
        value = value.detach()
        value = value.clone() if value.is_inference() else value
        if self.dtype is not None and value.is_floating_point() and (self.every or value.dtype in LOW_PRECISION):
            return value.to(self.dtype)
        return value

    @contextmanager
    def region(self, like: Tensor) -> Iterator[None]:
        """Compute in float32 or better: without autocast, and with the forward pass's own casts replaced if needed."""
        with ExitStack() as stack:
            stack.enter_context(full_precision(like))
            if self.dtype is not None and self.replaces_casts:
                narrow = (*LOW_PRECISION, torch.float32) if self.every else LOW_PRECISION
                stack.enter_context(OneDtype(self.dtype, narrow=narrow))
            yield


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
