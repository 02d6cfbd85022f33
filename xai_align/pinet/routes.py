"""How to run a model with its feature space in hand: from the input, from a layer, or from a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from xai_align.hookspecs import FeatureSpace

#: Told each tensor of ``z`` as the model computes it, answers with what the model goes on with.
Place: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Route:
    """``run(place)`` computes the logits through ``z``. With a split, ``z`` is known and ``run`` is the head."""

    run: Callable[[Place], Any]
    z: Any = None


def route_through(model: nn.Module, space: FeatureSpace, inputs: Sequence[Any], extra: Sequence[Any]) -> Route:
    """The route by which ``model`` computes its logits through ``space``.

    Raises:
        ValueError: a layer of the space does not exist.
    """
    if space.split is not None:
        return _through_split(space, inputs, extra)
    if space.layer == "input":
        return Route(lambda place: model(*(place(x) if _is_floating(x) else x for x in inputs), *extra))
    names = (space.layer,) if isinstance(space.layer, str) else space.layer
    layers = {name: find_layer(model, name) for name in names}
    return Route(lambda place: _through_layers(model, layers, inputs, extra, place))


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The module of this dotted name.

    Raises:
        ValueError: there is none; the message tells what there is at that place.
    """
    module = model
    path = name.split(".")
    for depth, part in enumerate(path):
        children = dict(module.named_children())
        if part not in children:
            parent = ".".join(path[:depth])
            where = f"'{parent}'" if parent else "this model"
            raise ValueError(f"layer '{name}' not found; {where} has {_shown(list(children), parent)}")
        module = children[part]
    return module


def layer_name(model: nn.Module, layer: nn.Module) -> str:
    """The dotted name of a module of the model.

    Raises:
        ValueError: the module is not part of the model.
    """
    for name, module in model.named_modules():
        if module is layer:
            return name
    raise ValueError(f"the layer given ({type(layer).__name__}) is not a module of this model ({type(model).__name__})")


def _through_split(space: FeatureSpace, inputs: Sequence[Any], extra: Sequence[Any]) -> Route:
    assert space.split is not None
    features, head = space.split
    with torch.no_grad():
        z = features(*inputs, *extra)
    return Route(lambda place: head(_placed(z, place)), z)


def _through_layers(
    model: nn.Module, layers: dict[str, nn.Module], inputs: Sequence[Any], extra: Sequence[Any], place: Place
) -> Tensor:
    runs = dict.fromkeys(layers, 0)

    def put_in_place(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            runs[name] += 1
            if runs[name] > 1:
                raise ValueError(f"layer '{name}' runs more than once in a forward pass; choose a layer that runs once")
            return _placed(output, place)

        return hook

    with _forward_hooks({module: put_in_place(name) for name, module in layers.items()}):
        logits = model(*inputs, *extra)
    for name, count in runs.items():
        if count == 0:
            raise ValueError(
                f"layer '{name}' did not run in the forward pass (a module that is only a container of others, "
                "or that is unused); choose one that does"
            )
    return logits


@contextmanager
def _forward_hooks(hooks: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _placed(output: Any, place: Place) -> Any:
    """``output`` with each of its floating tensors put in place, containers kept."""
    if isinstance(output, Tensor):
        return place(output) if _is_floating(output) else output
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(_placed(part, place) for part in output))
    if isinstance(output, list | tuple):
        return type(output)(_placed(part, place) for part in output)
    if isinstance(output, dict):
        return type(output)({key: _placed(part, place) for key, part in output.items()})
    return output


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _shown(names: list[str], parent: str) -> str:
    full = [f"{parent}.{name}" if parent else name for name in names]
    if not full:
        return "no layers inside"
    if len(full) > 8 and all(name.isdigit() for name in names):
        return f"{full[0]} … {full[-1]}"
    return ", ".join(full[:12]) + (" …" if len(full) > 12 else "")
