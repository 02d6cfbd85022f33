"""Restoration of PyTorch's thread-local state after a call, also after an interrupt.

A ``with`` block can be interrupted between entering its context and starting to
guard it, so that a mode is never exited. Here the state is recorded before the
call, and restored by two nested ``finally`` blocks: if an interrupt stops the
first, the second does it.

The generator of such a block then stays suspended as long as the traceback
lives, and would run its cleanup when that is freed, at an arbitrary time. So the
frames of an interrupted call are cleared before the state is restored.
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
    """The current thread's modes, hooks and switches.

    Attributes:
        function_modes: active ``TorchFunctionMode``s, innermost last.
        transforms: number of active ``torch.func`` transforms, such as ``vmap``.
        saved_tensor_hooks: the innermost hooks on tensors saved for the backward pass, or None.
        grad: whether gradients are enabled.
        autocast: for CPU and, if used, CUDA: whether autocast is enabled, and its dtype.
        autocast_depth: number of active autocast blocks; the outermost one frees its cached casts at its end.
    """

    function_modes: tuple[Any, ...]
    transforms: int
    saved_tensor_hooks: Any
    grad: bool
    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    autocast_depth: int

    @classmethod
    def now(cls) -> ThreadState:
        """Return the current thread's state."""
        return cls(
            _function_modes(),
            _C._functorch.get_dynamic_layer_stack_depth(),
            _top_hooks(),
            torch.is_grad_enabled(),
            _autocast(),
            _autocast_depth(),
        )

    def restore(self) -> None:
        """Pop modes that were entered since and never exited, push those that were popped, and reset the switches."""
        if _C._functorch.get_dynamic_layer_stack_depth() > self.transforms:
            _C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(self.transforms)
        kept = [mode for mode, before in zip(_function_modes(), self.function_modes, strict=False) if mode is before]
        while _C._len_torch_function_stack() > len(kept):
            _C._pop_torch_function_stack()
        # PyTorch pops a mode while it handles an operation
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
    """Decorate ``function`` to restore the thread's state at its end, also after an interrupt at any moment.

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
                raise interrupt from None  # errors raised while it propagated are not errors of the call
            finally:
                state.restore()
        finally:
            state.restore()

    return restoring


def _clear_frames(error: BaseException, handled: BaseException | None) -> BaseException | None:
    """Clear the frames that an interrupt left suspended, innermost first, and return the interrupt, or None.

    Frames of ordinary errors are kept for debuggers. ``handled`` is the error that the caller was already handling;
    its frames are left alone.
    """
    chain = _chain(error, handled)
    interrupt = _interrupt_in(chain)
    if interrupt is not None:
        for one in chain:
            for frame, _ in reversed(list(traceback.walk_tb(one.__traceback__))):
                with suppress(RuntimeError):  # the decorator's own frame is running
                    frame.clear()
    return interrupt


def hides_interrupt(error: BaseException) -> bool:
    """Return whether ``error`` was raised while an interrupt propagated.

    An interrupt between entering a mode and guarding it makes the mode's exit raise. A handler that goes on after
    ``Exception`` must raise such an error again: the interrupt would be lost, and the modes of this thread are wrong.
    """
    return _interrupt_in(_chain(error, None)) is not None


def _chain(error: BaseException, handled: BaseException | None) -> list[BaseException]:
    """Return the error and those it was raised after; an interrupt that was turned into an error on purpose ends it."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause is not handled and cause not in chain:
        chain.append(cause)
        if cause.__suppress_context__:
            cause = cause.__cause__ if isinstance(cause.__cause__, Exception) else None
        else:
            cause = cause.__context__
    return chain


def _interrupt_in(chain: list[BaseException]) -> BaseException | None:
    return next((one for one in chain if not isinstance(one, Exception)), None)


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
