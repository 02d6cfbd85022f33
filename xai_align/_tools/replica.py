"""Structural copies of a network that share its parameters' memory, like data-parallel replicas.

A readout hooks layers, changes flags and differentiates. It does so on a replica:
every module is a new object, every parameter a plain tensor that shares the
original's memory and requires no gradient (or, for training, the parameter itself). The original is only read, so other
threads may run it at the same time, and an interrupt leaves it unchanged.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import OrderedDict
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

T = TypeVar("T")

#: Dtypes too imprecise to compute coefficients in.
LOW_PRECISION = (torch.float16, torch.bfloat16)
_FORWARD_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")
#: Attributes of every module, which are handled by name or ignored.
_OF_MODULE = frozenset(nn.Module().__dict__)
_ATOMIC = frozenset((int, float, str, bool, type(None), torch.Size, torch.dtype, torch.device, type, bytes, complex))
_DICTS = (dict, OrderedDict)
_CONTAINERS = (list, set, *_DICTS)
#: Flags of modules for activation checkpointing, which must be off while activations are recorded.
_CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing")


class Replica:
    """Structural copy of ``model``; :attr:`module` is run in its place.

    Forward hooks that the user registered are kept, backward hooks are dropped.
    Buffers are cloned, since a forward pass may write into them. Compiled modules
    are replaced by the modules they were compiled from. Scripted modules can't be
    copied: the original runs in a wrapper, which takes the hooks.

    Args:
        model: any module.
        dtype: low-precision floating parameters and buffers become copies of this dtype; with ``every``, all do.
        every: see ``dtype``.
        evaluate: whether all modules of the copy are in eval mode; otherwise each is in its original's mode.
        inplace: False: modules with a flag ``inplace`` run out of place.
        live: whether the copy has the parameters themselves, so that gradients reach the model's; not with ``dtype``.

    Raises:
        ValueError: a lazy module has no parameters yet.

    Example::

        copy = Replica(model)
        handle = copy.of(model.layer4).register_forward_hook(print)  # model itself has no hook
        logits = copy.module(images)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dtype: torch.dtype | None = None,
        every: bool = False,
        evaluate: bool = False,
        inplace: bool = True,
        live: bool = False,
    ) -> None:
        self._live = live
        self._dtype, self._every, self._evaluate, self._inplace = dtype, every, evaluate, inplace
        #: Copies by the ``id`` of their originals, which live as long as the model does, or are kept alive.
        self._copies: dict[int, Any] = {}
        self._alive: list[Any] = []
        self._model = model
        self.module: nn.Module = self.of(model)

    @functools.cached_property
    def _held(self) -> frozenset[int]:
        """The ids of containers that modules hold; functions that share one get its copy."""
        return frozenset(
            id(value)
            for module in self._model.modules()
            for name, value in module.__dict__.items()
            if type(value) in _CONTAINERS and name not in _OF_MODULE
        )

    def of(self, module: nn.Module) -> Any:
        """Return the copy of a module; a module that isn't part of the model is copied too."""
        known = self._copies.get(id(module))
        if known is not None:
            return known
        copies: list[nn.Module] = []
        top = self._structure(module, copies)
        for copy in copies:
            state = copy.__dict__
            # values are replaced and no key is added, so it is safe to iterate over the dictionary
            for name, value in state.items():
                if type(value) not in _ATOMIC and name not in _OF_MODULE and not _is_plain(value):
                    state[name] = self.rebind(value)
        return top

    def rebind(self, value: T) -> T:
        """Return ``value`` with all references to the original replaced by references to the copy.

        Looks into containers, dataclasses, bound methods, partial functions and closures.
        """
        rebound: T = self._rebound(value)
        return rebound

    def _rebound(self, found: Any) -> Any:
        kind = type(found)
        if kind in _ATOMIC:
            return found
        if isinstance(found, Tensor):
            return self._copied_tensor(found, clone=True)
        if isinstance(found, nn.Module):
            return self.of(found)
        if kind in _CONTAINERS:
            return self._container(found)
        if kind is tuple:
            parts = tuple(map(self.rebind, found))
            return found if all(a is b for a, b in zip(parts, found, strict=True)) else parts
        if kind is types.MethodType:
            owner = self.rebind(found.__self__)
            return found if owner is found.__self__ else types.MethodType(found.__func__, owner)
        if kind is types.FunctionType:
            return self._function(found)
        if kind is functools.partial:
            return functools.partial(
                self.rebind(found.func), *map(self.rebind, found.args), **self.rebind(found.keywords)
            )
        if kind is weakref.ReferenceType:
            target = found()
            return weakref.ref(self.of(target)) if isinstance(target, nn.Module) else found
        if isinstance(found, tuple) and hasattr(found, "_fields"):
            return kind(*map(self.rebind, found))
        if is_dataclass(found) and getattr(found, "__dataclass_params__").frozen:  # noqa: B009
            return self._dataclass(found)
        return found

    def _structure(self, module: nn.Module, copies: list[nn.Module]) -> Any:
        """Copy modules, parameters and buffers; other attributes still refer to the original."""
        known = self._copies.get(id(module))
        if known is not None:
            return known
        if isinstance(module, torch.jit.ScriptModule):
            around = _Scripted(module)
            self._copies[id(module)] = around
            return around
        compiled_from = module.__dict__.get("_modules", {}).get("_orig_mod")
        if compiled_from is not None:
            copy = self._structure(compiled_from, copies)
            self._copies[id(module)] = copy
            return copy
        copy = object.__new__(module.__class__)  # some classes create another class in __new__
        self._copies[id(module)] = copy
        copies.append(copy)
        state = copy.__dict__
        state.update(module.__dict__)
        for slot in _slots_of(type(module)):  # type: ignore[arg-type]
            with suppress(AttributeError):  # not set yet
                slot.__set__(copy, self.rebind(slot.__get__(module)))
        state["_parameters"] = {
            name: None if p is None else self._copied_tensor(p) for name, p in state["_parameters"].items()
        }
        # a forward pass may write into buffers, except the statistics of a norm in eval mode
        clone = not (isinstance(module, _NormBase) and not module.training)
        state["_buffers"] = {
            name: None if b is None else self._copied_tensor(b, clone=clone) for name, b in state["_buffers"].items()
        }
        state["_modules"] = {
            name: None if child is None else self._structure(child, copies) for name, child in state["_modules"].items()
        }
        for name in _FORWARD_HOOKS:
            hooks = state.get(name)
            state[name] = (
                OrderedDict(zip(hooks, map(self.rebind, hooks.values()), strict=True)) if hooks else OrderedDict()
            )
        for name in _BACKWARD_HOOKS:
            if state.get(name):
                state[name] = OrderedDict()
        if self._evaluate:
            state["training"] = False
        if not self._inplace and state.get("inplace") is True:
            state["inplace"] = False
        for name in _CHECKPOINTING:
            if state.get(name) is True:
                state[name] = False
        if state.get("_compiled_call_impl") is not None:
            state["_compiled_call_impl"] = None
        return copy

    def _container(self, found: Any) -> Any:
        """Return the one copy of a container, which modules and functions may share."""
        known = self._copies.get(id(found))
        if known is None:
            known = self._copies[id(found)] = type(found)()
            self._alive.append(found)  # so that no other object gets its id
            if isinstance(found, _DICTS):
                known.update((self.rebind(key), self.rebind(part)) for key, part in found.items())
            elif isinstance(found, list):
                known.extend(map(self.rebind, found))
            else:
                known.update(map(self.rebind, found))
        return known

    def _copied_tensor(self, tensor: Tensor, *, clone: bool = False) -> Tensor:
        known = self._copies.get(id(tensor))
        if known is None:
            if self._live and isinstance(tensor, nn.Parameter):
                return tensor
            known = self._alias(tensor)
            if clone and known.dtype == tensor.dtype:
                known = known.clone()
            self._copies[id(tensor)] = known
        return known

    def _alias(self, tensor: Tensor) -> Tensor:
        """Return a tensor that shares memory, without gradient; other dtypes and inference tensors need a copy."""
        if type(tensor) in (UninitializedParameter, UninitializedBuffer):
            raise ValueError("the model has lazy modules without parameters; run it once on an input, then call again")
        alias = tensor.detach()
        if self._dtype is not None and alias.is_floating_point() and (self._every or alias.dtype in LOW_PRECISION):
            alias = alias.to(self._dtype)
        return alias.clone() if alias.is_inference() else alias

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        """Return a function with its closure rebound, if anything in it refers to the original."""
        known = self._copies.get(id(function))
        if known is not None:
            return known
        if not function.__closure__ and not function.__defaults__:
            return function
        self._copies[id(function)] = function  # a function that refers to itself
        self._alive.append(function)
        defaults = tuple(map(self._in_function, function.__defaults__ or ()))
        changed = any(a is not b for a, b in zip(defaults, function.__defaults__ or (), strict=True))
        cells = []
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # not filled yet
                cells.append(cell)
                continue
            rebound = self._in_function(content)
            changed |= rebound is not content
            cells.append(types.CellType(rebound) if rebound is not content else cell)
        if not changed:
            return function
        copy = types.FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            defaults if function.__defaults__ else None,
            tuple(cells) if function.__closure__ else None,
        )
        copy.__kwdefaults__ = function.__kwdefaults__
        copy.__dict__.update(function.__dict__)
        self._copies[id(function)] = copy
        return copy

    def _in_function(self, value: Any) -> Any:
        """Return a value of a closure or a default, rebound if it belongs to the model."""
        return self.rebind(value) if isinstance(value, _IN_CLOSURES) or id(value) in self._held else value

    def _dataclass(self, record: Any) -> Any:
        parts = {field.name: getattr(record, field.name) for field in fields(record) if field.init}
        rebound = {name: self.rebind(part) for name, part in parts.items()}
        changed = {name: part for name, part in rebound.items() if not _is_same(part, parts[name])}
        return replace(record, **changed) if changed else record


@functools.cache
def _slots_of(kind: type) -> tuple[Any, ...]:
    """Return the attributes that a class keeps in ``__slots__`` instead of the module's dictionary."""
    slots = (slot for base in kind.__mro__ for slot in vars(base).values())
    return tuple(slot for slot in slots if isinstance(slot, types.MemberDescriptorType))


def _is_same(a: Any, b: Any) -> bool:
    """Return whether rebinding changed nothing; containers are copied in any case."""
    if a is b:
        return True
    if type(a) is not type(b) or not isinstance(a, list | dict | set):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_is_same(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(_is_same, a, b))


class _Scripted(nn.Module):
    """Wrapper of a scripted module in a replica; hooks are set on the wrapper and not on the module."""

    def __init__(self, scripted: torch.jit.ScriptModule) -> None:
        super().__init__()
        self._scripted = (scripted,)  # in a tuple, so that PyTorch does not register it as a submodule
        self.training = scripted.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._scripted[0](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_scripted"][0], name)


def _is_plain(value: Any) -> bool:
    """Return whether ``value`` is of a common type that cannot refer to a module or tensor."""
    kind = type(value)
    if kind is tuple or kind is list:
        return all(type(part) in _ATOMIC for part in value) and kind is tuple
    return (
        kind is types.FunctionType and not value.__closure__ and not value.__defaults__
    ) or kind is types.BuiltinFunctionType


_IN_CLOSURES = (nn.Module, Tensor, types.MethodType, types.FunctionType, functools.partial, weakref.ReferenceType)
