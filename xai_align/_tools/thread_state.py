"""Put back what PyTorch keeps for the running thread, whatever interrupted the work.

A ``with`` block can be interrupted between entering its context and starting to
guard it, so that a mode stays for ever. Here the state is noted before the work,
and two nested ``finally`` blocks put it back by comparison: an interrupt in the
first leaves the second to do it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import _C

P = ParamSpec("P")
R = TypeVar("R")


class ThreadState(NamedTuple):
    """How many modes and hooks the running thread has, and its switches.

    Attributes:
        function_modes: entered ``TorchFunctionMode``s.
        saved_tensor_hooks: the hooks on tensors saved for the backward pass that are entered last, or None.
        grad: whether gradients are on.
        autocast: for CPU and, if used, CUDA: whether autocast is on.
    """

    function_modes: int
    saved_tensor_hooks: Any
    grad: bool
    autocast: tuple[tuple[str, bool], ...]

    @classmethod
    def now(cls) -> ThreadState:
        """Note the running thread's state."""
        return cls(_C._len_torch_function_stack(), _top_hooks(), torch.is_grad_enabled(), _autocast())

    def restore(self) -> None:
        """Take off what was entered since and never left, and set the switches back."""
        while _C._len_torch_function_stack() > self.function_modes:
            _C._pop_torch_function_stack()
        while (top := _top_hooks()) is not None and top != self.saved_tensor_hooks:
            _C._autograd._pop_saved_tensors_default_hooks()
        if torch.is_grad_enabled() != self.grad:
            torch.set_grad_enabled(self.grad)
        for device, enabled in self.autocast:
            if torch.is_autocast_enabled(device) != enabled:
                torch.set_autocast_enabled(device, enabled)


def restores_thread_state(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: after ``function``, also after an interrupt at any moment, the thread's state is as before.

    Example::

        @restores_thread_state
        def attribute(model, inputs):
            with SomeTorchFunctionMode():
                return model(inputs)
    """

    @functools.wraps(function)
    def restoring(*args: P.args, **kwargs: P.kwargs) -> R:
        state = ThreadState.now()
        try:
            try:
                return function(*args, **kwargs)
            finally:
                state.restore()
        finally:
            state.restore()

    return restoring


def _top_hooks() -> Any:
    return _C._autograd._top_saved_tensors_default_hooks(True)


def _autocast() -> tuple[tuple[str, bool], ...]:
    devices = ("cpu", "cuda") if torch.cuda.is_initialized() else ("cpu",)
    return tuple((device, torch.is_autocast_enabled(device)) for device in devices)
