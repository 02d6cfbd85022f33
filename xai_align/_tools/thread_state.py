"""Put back what PyTorch keeps for the running thread, whatever interrupted the work.

A ``with`` block can be interrupted between entering its context and starting to
guard it, so that a mode stays for ever. Here the state is noted before the work,
and two nested ``finally`` blocks put it back by comparison: an interrupt in the
first leaves the second to do it.

A generator behind such a block stays suspended then, as long as the traceback
lives, and would undo its own work whenever that is dropped, far from here. So the
frames of interrupted work are cleared before the state is put back.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import _C

P = ParamSpec("P")
R = TypeVar("R")


class ThreadState(NamedTuple):
    """The running thread's modes, hooks and switches.

    Attributes:
        function_modes: entered ``TorchFunctionMode``s, innermost last.
        transforms: how many of ``torch.func``'s transforms, such as ``vmap``, are at work.
        saved_tensor_hooks: the hooks on tensors saved for the backward pass that are entered last, or None.
        grad: whether gradients are on.
        autocast: for CPU and, if used, CUDA: whether autocast is on, and in which precision.
        autocast_depth: how many autocast blocks are entered; in the outermost one's end the weights it cast are freed.
    """

    function_modes: tuple[Any, ...]
    transforms: int
    saved_tensor_hooks: Any
    grad: bool
    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    autocast_depth: int

    @classmethod
    def now(cls) -> ThreadState:
        """Note the running thread's state."""
        return cls(
            _function_modes(),
            _C._functorch.get_dynamic_layer_stack_depth(),
            _top_hooks(),
            torch.is_grad_enabled(),
            _autocast(),
            _autocast_depth(),
        )

    def restore(self) -> None:
        """Take off what was entered since and never left, put on what was taken off, and set the switches back."""
        if _C._functorch.get_dynamic_layer_stack_depth() > self.transforms:
            _C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(self.transforms)
        kept = [mode for mode, before in zip(_function_modes(), self.function_modes, strict=False) if mode is before]
        while _C._len_torch_function_stack() > len(kept):
            _C._pop_torch_function_stack()
        # while a mode handles an operation, PyTorch takes it off
        for mode in self.function_modes[len(kept) :]:
            _C._push_on_torch_function_stack(mode)
        while (top := _top_hooks()) is not None and top != self.saved_tensor_hooks:
            _C._autograd._pop_saved_tensors_default_hooks()
        if torch.is_grad_enabled() != self.grad:
            torch.set_grad_enabled(self.grad)
        for device, enabled, dtype in self.autocast:
            if torch.is_autocast_enabled(device) != enabled:
                torch.set_autocast_enabled(device, enabled)
            if torch.get_autocast_dtype(device) != dtype:
                torch.set_autocast_dtype(device, dtype)
        while _autocast_depth() > self.autocast_depth:
            if torch.autocast_decrement_nesting() == 0:
                torch.clear_autocast_cache()


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
        state, handled = ThreadState.now(), sys.exc_info()[1]
        try:
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                interrupt = _clear_frames(error, handled)
                if interrupt is None or interrupt is error:
                    raise
                raise interrupt from None  # what it met on its way out is no error of the work's
            finally:
                state.restore()
        finally:
            state.restore()

    return restoring


def _clear_frames(error: BaseException, handled: BaseException | None) -> BaseException | None:
    """Close what an interrupt left suspended, innermost first, and return it; None: there was none.

    Frames of ordinary errors are kept for debuggers. ``handled`` is the error that the caller was handling before: its
    frames are no business of ours.
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause is not handled and cause not in chain:
        chain.append(cause)
        cause = None if cause.__suppress_context__ else cause.__context__
    interrupt = next((one for one in chain if not isinstance(one, Exception)), None)
    if interrupt is not None:
        for one in chain:
            for frame, _ in reversed(list(traceback.walk_tb(one.__traceback__))):
                with suppress(RuntimeError):  # the decorator's own frame is running
                    frame.clear()
    return interrupt


def _function_modes() -> tuple[Any, ...]:
    return tuple(_C._get_function_stack_at(place) for place in range(_C._len_torch_function_stack()))


def _top_hooks() -> Any:
    return _C._autograd._top_saved_tensors_default_hooks(True)


def _autocast() -> tuple[tuple[str, bool, torch.dtype], ...]:
    devices = ("cpu", "cuda") if torch.cuda.is_initialized() else ("cpu",)
    return tuple((device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices)


def _autocast_depth() -> int:
    try:
        return torch.autocast_increment_nesting() - 1
    finally:
        torch.autocast_decrement_nesting()
