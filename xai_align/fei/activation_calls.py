"""Which activations a network calls, one after the other, in whatever spelling.

Modules, functions, methods, in-place forms and reused modules are all seen,
since every operation between the start and the end of the model's forward
pass goes through :class:`ActivationWatch`. Not seen are operations inside
compiled or scripted code and inside custom autograd functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from xai_align._tools.thread_state import restores_thread_state
from xai_align.pinet.gates.rule_registry import operation_name

#: Kinds of activations that have silent units: for all inputs below 0, or about so, they give 0 or less.
CLIPPABLE = ("relu", "relu6", "gelu", "silu", "hardswish")
#: Activations whose units are never silent, or not at 0; named in messages only.
OTHERS = frozenset(
    "leaky_relu rrelu prelu elu selu celu mish softplus tanh sigmoid hardsigmoid hardtanh threshold "
    "softsign tanhshrink softshrink hardshrink logsigmoid glu".split()
)

_name = cache(operation_name)


def activation_kind(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """The kind of activation this call is: one of :data:`CLIPPABLE` or :data:`OTHERS`, or None."""
    name = _name(func).removeprefix("_")  # F.threshold is called _threshold
    if name in CLIPPABLE:
        return name
    if name in ("clamp", "clip"):
        return _one_sided(_argument(args, kwargs, 1, "min"), _argument(args, kwargs, 2, "max"))
    if name == "clamp_min":
        return _one_sided(_argument(args, kwargs, 1, "min"), None)
    if name == "hardtanh":
        return _one_sided(_argument(args, kwargs, 1, "min_val", -1), _argument(args, kwargs, 2, "max_val", 1)) or name
    if name == "threshold":
        below, value = _argument(args, kwargs, 1, "threshold"), _argument(args, kwargs, 2, "value")
        return "relu" if _is(below, 0) and _is(value, 0) else name
    return name if name in OTHERS else None


def _one_sided(low: Any, high: Any) -> str | None:
    """A clamp from below at 0 is ReLU; with 6 above it is ReLU6; others are no activation."""
    if not _is(low, 0):
        return None
    return "relu" if high is None or _is(high, float("inf")) else "relu6" if _is(high, 6) else None


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _is(value: Any, number: float) -> bool:
    return isinstance(value, int | float) and value == number


class ActivationWatch(TorchFunctionMode):
    """Calls :meth:`see` for every activation while a watched module runs, and only then.

    :meth:`watch` is given a replica; the interception is on in its forward pass alone. :meth:`begin` and
    :meth:`end` are told of every forward pass.
    """

    def begin(self, batch: int | None) -> None:
        """A forward pass of this many inputs starts (None: it is given no tensor)."""

    def see(self, kind: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """An activation is called: give its output."""
        raise NotImplementedError

    def end(self) -> None:
        """A forward pass came to its end."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at one operation (called by PyTorch, with the interception off)."""
        kwargs = kwargs or {}
        kind = activation_kind(func, args, kwargs)
        return func(*args, **kwargs) if kind is None else self.see(kind, func, args, kwargs)

    def watch(self, replica: nn.Module) -> None:
        """From now on, see the activations of this module, which is a replica: its forward pass is replaced."""
        plain = replica.forward

        @restores_thread_state
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.begin(batch_size(args, kwargs))
            with self:
                output = plain(*args, **kwargs)
            self.end()
            return output

        replica.forward = forward


def batch_size(*inputs: Any) -> int | None:
    """The length of the first tensor in (nested) inputs."""
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.dim():
            return len(leaf)
    return None


def running_modules(root: nn.Module, names: Mapping[int, str]) -> list[str]:
    """The modules of ``root`` whose code is running, innermost first, from the stack.

    Args:
        root: the model; nothing outside it counts.
        names: the name of each module, by its ``id``.
    """
    found: list[str] = []
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if owner is root:
            break
        if isinstance(owner, nn.Module) and (name := names.get(id(owner))) is not None and found[-1:] != [name]:
            found.append(name)
        frame = frame.f_back
    return found


def check_visible(model: nn.Module) -> None:
    """Raise where parts of ``model`` are compiled or scripted.

    Raises:
        ValueError: their activations could not be seen.
    """
    for name, module in model.named_modules():
        compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        if compiled or isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{f'layer {name!r}' if name else 'the model'} is {'compiled' if compiled else 'scripted'}, and "
                "activations inside cannot be seen; give the model as it was before"
            )
