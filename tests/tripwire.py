"""A model that raises when anybody changes it, for a moment only or by any of its parameters."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
)
_OF_TENSORS = (
    "requires_grad_",
    "register_hook",
    "register_post_accumulate_grad_hook",
    "copy_",
    "detach_",
    "retain_grad",
)


class Touched(AssertionError):
    """The original was changed."""


class _NoHooks(OrderedDict):
    def __setitem__(self, key, value):
        raise Touched("a hook was registered on the model")


@contextmanager
def tripwire(model: nn.Module):
    """Inside, setting any attribute of these very modules, a hook on them or a flag of their parameters raises."""
    modules = {id(module): name for name, module in model.named_modules()}
    tensors = {id(p) for p in (*model.parameters(), *model.buffers())}
    before = [(module, {name: module.__dict__[name] for name in _HOOKS}) for module in model.modules()]

    def guarded(plain, armed, what):
        def method(self, *args, **kwargs):
            if id(self) in armed:
                raise Touched(f"{what} {args[:1]} of the model")
            return plain(self, *args, **kwargs)

        return method

    kept = {(nn.Module, name): getattr(nn.Module, name) for name in ("__setattr__", "__delattr__")}
    kept |= {(Tensor, name): getattr(Tensor, name) for name in _OF_TENSORS}
    flag = torch._C.TensorBase.requires_grad
    try:
        for module, hooks in before:
            module.__dict__.update({name: _NoHooks() for name in hooks})
        for (owner, name), plain in kept.items():
            setattr(owner, name, guarded(plain, modules if owner is nn.Module else tensors, name))
        Tensor.requires_grad = property(flag.__get__, guarded(flag.__set__, tensors, "requires_grad"))
        yield
    finally:
        del Tensor.requires_grad
        for (owner, name), plain in kept.items():
            if owner is Tensor and name not in _own_of_tensor:
                delattr(owner, name)
            else:
                setattr(owner, name, plain)
        for module, hooks in before:
            module.__dict__.update(hooks)


_own_of_tensor = {name for name in _OF_TENSORS if name in vars(Tensor)}
