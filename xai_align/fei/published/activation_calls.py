"""Interception of the activations that a network calls, in order and in any form.

Modules, functions, methods, in-place forms and reused modules are all covered,
since every operation of the model's forward pass goes through
:class:`ActivationWatch`. Operations inside compiled or scripted code and inside
custom autograd functions are not intercepted.
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

#: Activations with silent units: an output of 0 or less for (almost) all inputs below 0.
CLIPPABLE = ("relu", "relu6", "gelu", "silu", "hardswish")
#: Activations whose units are never silent, or not at 0; used in messages only.
OTHERS = frozenset(
    "leaky_relu rrelu prelu elu selu celu mish softplus tanh sigmoid hardsigmoid hardtanh threshold "
    "softsign tanhshrink softshrink hardshrink logsigmoid glu".split()
)

_name = cache(operation_name)


def activation_kind(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Return the kind of activation of a call: one of :data:`CLIPPABLE` or :data:`OTHERS`, or None."""
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
    """Return the kind of a clamp: from below at 0 it is ReLU, with 6 above ReLU6, else None."""
    if not _is(low, 0):
        return None
    return "relu" if high is None or _is(high, float("inf")) else "relu6" if _is(high, 6) else None


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _is(value: Any, number: float) -> bool:
    return isinstance(value, int | float) and value == number


class ActivationWatch(TorchFunctionMode):
    """Base class that calls :meth:`see` for every activation while a watched module runs.

    :meth:`watch` takes a replica; the interception is active in its forward pass only. :meth:`begin` and
    :meth:`end` are called for every forward pass.
    """

    def begin(self, batch: int | None) -> None:
        """Start a forward pass with this batch size (None: it has no tensor input)."""

    def see(self, kind: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return the output of an activation call."""
        raise NotImplementedError

    def end(self) -> None:
        """End a forward pass."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Handle one operation (called by PyTorch, with the interception off)."""
        kwargs = kwargs or {}
        kind = activation_kind(func, args, kwargs)
        return func(*args, **kwargs) if kind is None else self.see(kind, func, args, kwargs)

    def watch(self, replica: nn.Module) -> None:
        """Intercept the activations of a replica from now on, by replacing its forward method."""
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
    """Return the length of the first tensor in (nested) inputs."""
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.dim():
            return len(leaf)
    return None


def running_modules(root: nn.Module, names: Mapping[int, str]) -> list[str]:
    """Return the modules of ``root`` whose code is running, innermost first, from the call stack.

    Args:
        root: the model; frames outside it are ignored.
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
    """Raise if parts of ``model`` are compiled or scripted.

    Raises:
        ValueError: they are; their activations can't be intercepted.
    """
    for name, module in model.named_modules():
        compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        if compiled or isinstance(module, torch.jit.ScriptModule):
            what, how = f"layer '{name}'" if name else "the model", "compiled" if compiled else "scripted"
            raise ValueError(
                f"{what} is {how}, so its activations cannot be intercepted; give the model that was {how}"
            )
