"""Networks behind the functions that Captum's methods take as models."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn


class FunctionModel(nn.Module):
    """Function of the inputs as a module, whose layers are those of the networks that the function names.

    Networks are found in the function's closure, its globals, among arguments bound to it, and as its owner. A copy of
    this module runs copies of them, so their layers can be read. Networks that only a function called by this one
    can access are run unchanged.

    Args:
        function: function of the inputs that returns logits.

    Example::

        PiNetAttribution(lambda x: model(x) / 2).attribute(images, target=281)
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        for number, network in enumerate(_networks_in(function)):
            self.add_module(f"network{number or ''}", network)
        named = {name: id(one) for name, one in _global_networks(function).items()}
        self._names = {
            name: key for key, one in self._modules.items() for name, same in named.items() if same == id(one)
        }
        self._function = (function,)
        self.training = False

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return what the function returns."""
        (function,) = self._function
        if self._names:
            known = {name: self._modules[key] for name, key in self._names.items()}
            function = _with_names(function, known)
        return function(*inputs, **named)


def module_of(model: Any) -> nn.Module:
    """Return the network whose forward function this is; another function as a :class:`FunctionModel`.

    Raises:
        TypeError: it can't be called.
        ValueError: it is the ``forward`` of a network with forward hooks, which it does not run.
    """
    if isinstance(model, nn.Module):
        return model
    owner = getattr(model, "__self__", None)
    name = getattr(model, "__name__", "")
    if isinstance(owner, nn.Module) and name in _CALLS:
        if name == "forward" and (owner._forward_hooks or owner._forward_pre_hooks):
            raise ValueError(
                f"the function is the forward of {type(owner).__name__}, a module with forward hooks, which forward "
                "does not run, so the two give different answers; give the model itself, or remove the hooks"
            )
        return owner
    if not callable(model):
        raise TypeError(f"the model is a torch.nn.Module or a function of the inputs, got {type(model).__name__}")
    return FunctionModel(model)


class ModuleOf:
    """:func:`module_of`, with the module of the last function kept, whose layers are looked up only once."""

    def __init__(self) -> None:
        self._known: tuple[Any, nn.Module] | None = None

    def __call__(self, model: Any) -> nn.Module:
        """Return the network behind a model."""
        if isinstance(model, nn.Module):
            return model
        known = self._known
        if known is None or known[0] != model:
            known = self._known = (model, module_of(model))
        return known[1]


def layers_in(module: nn.Module, layers: Any) -> Any:
    """Return layers with the names that they have in a :class:`FunctionModel`, if the module is one."""
    if not isinstance(module, FunctionModel):
        return layers
    if isinstance(layers, list | tuple):
        return type(layers)(layers_in(module, one) for one in layers)
    inner = dict(module.named_children()).get("network")
    known = isinstance(layers, str) and inner is not None and layers in dict(inner.named_modules())
    return f"network.{layers}" if known else layers


#: Methods of a module that run the whole of it.
_CALLS = ("forward", "__call__", "_wrapped_call_impl", "_call_impl")


def _networks_in(function: Any) -> list[nn.Module]:
    bound = [getattr(function, "__self__", None)]
    if isinstance(function, partial):
        bound += [*function.args, *function.keywords.values()]
        return [*_modules(bound), *_networks_in(function.func)]
    plain = _plain(function)
    if plain is None:
        return _modules([*bound, function, *vars(function).values()] if hasattr(function, "__dict__") else bound)
    closed = [cell.cell_contents for cell in plain.__closure__ or () if _is_filled(cell)]
    values = [*bound, *closed, *(plain.__defaults__ or ()), *_global_networks(function).values()]
    return list({id(one): one for one in _modules(values)}.values())


def _modules(values: list[Any]) -> list[nn.Module]:
    return [one for one in values if isinstance(one, nn.Module)]


def _global_networks(function: Any) -> dict[str, nn.Module]:
    """Return the networks that a function names as globals."""
    plain = _plain(function)
    if plain is None:
        return {}
    known = plain.__globals__
    return {name: known[name] for name in plain.__code__.co_names if isinstance(known.get(name), nn.Module)}


def _plain(function: Any) -> types.FunctionType | None:
    function = function.__func__ if inspect.ismethod(function) else function
    return function if isinstance(function, types.FunctionType) else None


def _with_names(function: Any, values: dict[str, Any]) -> Any:
    """Return the function with these values for globals."""
    plain = _plain(function)
    assert plain is not None
    copy = types.FunctionType(
        plain.__code__, {**plain.__globals__, **values}, plain.__name__, plain.__defaults__, plain.__closure__
    )
    copy.__kwdefaults__ = plain.__kwdefaults__
    return types.MethodType(copy, function.__self__) if inspect.ismethod(function) else copy


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
