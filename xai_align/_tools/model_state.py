"""Temporary changes of a model's state in training, restored afterwards, also after an exception.

Explanations change nothing: they run on a :class:`~xai_align._tools.replica.Replica`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from xai_align._tools.checksum import checksum_of
from xai_align._tools.counted import counted
from xai_align._tools.networks_in import networks_in

#: Packages of PyTorch's quantised modules (torch.ao.nn.quantized, torch.ao.nn.intrinsic.quantized …).
_QUANTISED = re.compile(r"torch\..*\bquantized\b")
#: In the names of modules that drop values or paths at random, and of the shares that they drop.
_DROPS = re.compile("drop|stochastic_?depth", re.IGNORECASE)
#: Types of attributes that :func:`signature` includes.
_PLAIN = frozenset((bool, int, float, str, FunctionType, BuiltinFunctionType, MethodType, partial))


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Return ``model`` and all submodules, shared ones repeatedly; much faster than ``modules()``."""
    found = [model]
    for module in found:
        found.extend(child for child in module._modules.values() if child is not None)
    return found


def parameters_of(model: nn.Module) -> list[nn.Parameter]:
    """Return all parameters of :func:`modules_of`, shared ones repeatedly."""
    return [p for module in modules_of(model) for p in module._parameters.values() if p is not None]


def structure(model: nn.Module) -> int:
    """Return a number that changes with the model's modules, their hooks and attributes, and not with its parameters.

    The attributes included are numbers, flags, strings and functions, such as a ``forward`` that was replaced.
    """
    return hash(
        tuple(
            (id(module), type(module), *module._forward_hooks, *module._forward_pre_hooks, *_plain_attributes(module))
            for module in model.modules()
        )
    )


def signature(model: nn.Module) -> int:
    """Return a number that changes with the model's :func:`structure` and its parameters."""
    parameters = parameters_of(model)
    try:
        versions = [parameter._version for parameter in parameters]
    except RuntimeError:  # tensors made under inference_mode never change
        versions = []
    return hash((tuple(map(id, parameters)), tuple(versions), structure(model)))


def state_of(model: nn.Module) -> int:
    """Return a number that changes with :func:`signature`, and with the values of parameters and buffers.

    The values themselves are read, because PyTorch does not count writes through ``.data`` or NumPy.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return hash((signature(model), *((id(one), one.data_ptr()) for one in tensors), checksum_of(tensors)))


def _plain_attributes(module: nn.Module) -> Iterator[Any]:
    """Yield numbers, flags, strings and functions, on which ``forward`` may depend."""
    return (value for value in module.__dict__.values() if type(value) in _PLAIN)


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Set ``requires_grad`` of all parameters to False inside the block, and restore it afterwards."""
    wanted = [parameter for parameter in parameters_of(model) if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set all modules to eval mode inside the block, and restore the mode of each afterwards."""
    training = [module for module in modules_of(model) if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def without_checkpointing(model: nn.Module) -> Iterator[None]:
    """Disable activation checkpointing in the block: recomputed activations would miss the first pass's gates."""
    with _switched_off(model, "grad_checkpointing"), _switched_off(model, "gradient_checkpointing"):
        yield


@contextmanager
def _switched_off(model: nn.Module, name: str) -> Iterator[None]:
    """Set the attribute ``name`` to False inside the block, in all modules where it is True."""
    switched = [module for module in modules_of(model) if module.__dict__.get(name) is True]
    try:
        for module in switched:
            setattr(module, name, False)
        yield
    finally:
        for module in switched:
            setattr(module, name, True)


def check_eager(model: nn.Module) -> None:
    """Raise if a module of the model is scripted or quantised.

    Raises:
        TypeError: one is.
    """
    for kind in {type(module) for module in modules_of(model)}:
        if issubclass(kind, torch.jit.ScriptModule):
            raise TypeError(
                f"{kind.__name__} is a scripted module, its operations cannot be seen; give the eager model"
            )
        if _QUANTISED.match(kind.__module__):
            raise TypeError(
                f"{kind.__name__} is a quantised module, its arithmetic is not linear; give the float model"
            )


def check_has_values(model: nn.Module) -> None:
    """Raise if parameters or buffers of the model have no values yet.

    Raises:
        ValueError: they belong to lazy modules that never ran, or are on the device "meta".
    """
    for one in (*model.parameters(), *model.buffers()):
        if is_lazy(one):
            raise ValueError("the model has lazy modules without parameters; run it once on an input, then call again")
        if one.is_meta:
            raise ValueError(
                "the model is on the device 'meta', where parameters have no values; build it on another one, and load "
                "its weights"
            )


def check_evaluation_mode(model: Any) -> None:
    """Raise if the model's outputs are random or depend on the batch, or if a forward pass changes its buffers.

    Networks behind a function are checked as far as :func:`~xai_align._tools.networks_in.networks_in` finds them.

    Raises:
        ValueError: a BatchNorm, an InstanceNorm with statistics or (active) dropout is in train mode, or a BatchNorm
            has no running statistics.
    """
    if not isinstance(model, nn.Module):
        behind = networks_in(model)
    else:
        _check_mode(model, "the model", "call model.eval() first")
        own = set(modules_of(model))
        behind = [one for one in networks_in(model.forward) if one not in own]
    for network in behind:
        what = f"a network behind the model ({type(network).__name__})"
        _check_mode(network, what, "call its eval() first, or give a function without it if it is not run")


def _check_mode(model: nn.Module, what: str, remedy: str) -> None:
    modules = modules_of(model)
    if any(_is_restless(module) for module in modules):
        wrong = [name or type(model).__name__ for name, module in model.named_modules() if _is_restless(module)]
        shown = ", ".join(f"'{name}'" for name in wrong[:3]) + (" …" if len(wrong) > 3 else "")
        raise ValueError(
            f"{what} is in train mode: {counted(len(wrong), 'layer')} with batch statistics or dropout ({shown}) "
            f"would change the answer; {remedy}"
        )
    if unnormed := [
        name or type(model).__name__ for name, module in model.named_modules() if _has_no_statistics(module)
    ]:
        raise ValueError(
            f"the BatchNorm '{unnormed[0]}' keeps no running statistics (track_running_stats=False), so it uses those "
            "of the batch in eval mode too: the answer for one example depends on the others in its batch, so it "
            "cannot be explained by itself; rebuild the layer with running statistics, or use InstanceNorm or GroupNorm"
        )


def _has_no_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is None


def _is_restless(module: nn.Module) -> bool:
    if not module.training:
        return False
    if isinstance(module, _BatchNorm):
        return True
    if isinstance(module, _InstanceNorm):
        return bool(module.track_running_stats)
    if isinstance(module, _DropoutNd):
        return module.p > 0
    return _drops(module)


def _drops(module: nn.Module) -> bool:
    """Return whether a module has a share that it drops in train mode, as those of many libraries name it.

    E.g. ``SwinDropPath.drop_prob``, ``StochasticDepth.p``, ``PatchDropout.prob``, ``MultiheadAttention.dropout``, and
    ``drop_rate`` of networks that call ``F.dropout`` themselves.
    """
    by_type = _DROPS.search(type(module).__name__) is not None
    return any(
        isinstance(value, float) and 0 < value <= 1 and (_DROPS.search(name) or (by_type and name in ("p", "prob")))
        for name, value in vars(module).items()
    )
