"""Routes: running a model through a feature space, at the input, at layers, or at a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from xai_align._tools.logits import select_logits
from xai_align.features.run_with_features import cloned
from xai_align.hookspecs import FeatureSpace

#: Function called with the index of a feature space in the route and each of its tensors as the model computes it;
#: returns the tensor that the model continues with.
Put: TypeAlias = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Route:
    """Computation of the logits through ``z``. With a split, ``z`` is known and only the head runs.

    Attributes:
        forward: function of ``(inputs, put)`` that returns the model's output.
        inputs: the model's inputs.
        spaces: number of feature spaces on the route.
        z: the features of a split, else None.
        select: function that selects the logits from the model's output.
    """

    forward: Callable[[Sequence[Any], Put], Any]
    inputs: Sequence[Any]
    spaces: int = 1
    z: Any = None
    select: Callable[[Any], Any] = field(default=select_logits)

    @property
    def has_zero_inputs(self) -> bool:
        """True if the model can be run on zeros in place of its inputs, which is not so if only a head runs."""
        return self.z is None

    def given(self, *, zeros: bool = False) -> Sequence[Any]:
        """Return copies of the inputs, or zeros like the floating-point ones, since the network may write to them."""
        if self.z is not None:
            return self.inputs
        return [torch.zeros_like(x) if zeros and x.is_floating_point() else x.clone() for x in self.inputs]

    def run(self, put: Put, given: Sequence[Any] | None = None) -> Any:
        """Compute the logits; call :meth:`given` before an interception is entered."""
        return self.select(self.returned(put, given))

    def returned(self, put: Put, given: Sequence[Any] | None = None) -> Any:
        """Return the model's whole output, of which the logits are a part."""
        return self.forward(self.given() if given is None else given, put)


def route_through(
    model: nn.Module,
    spaces: Sequence[FeatureSpace],
    inputs: Sequence[Any],
    extra: Sequence[Any],
    *,
    output: str | int | None = None,
    z: Any = None,
) -> Route:
    """Return the route by which ``model`` computes its logits through all of ``spaces``, in one pass.

    Args:
        model: the network; its layers get hooks while the route runs, so give a replica.
        spaces: one with a split, or any number without.
        inputs: the model's inputs.
        extra: its further arguments.
        output: key, field or position of the logits in the model's output.
        z: the features of a split, if they are known.

    Raises:
        ValueError: a layer of a space does not exist, or two spaces name the same one.
    """
    if len(spaces) == 1 and spaces[0].split is not None:
        return _through_split(spaces[0], inputs, extra, z)
    numbers: dict[str, int] = {}
    for number, space in enumerate(spaces):
        for name in (space.layer,) if isinstance(space.layer, str) else space.layer:
            if name in numbers:
                raise ValueError(
                    f"the feature space '{name}' is named twice; give it once, with the sum of its weights"
                )
            numbers[name] = number
    at_input = numbers.pop("input", None)
    layers = {find_layer(model, name): (name, number) for name, number in numbers.items()}

    def forward(given: Sequence[Any], put: Put) -> Any:
        if at_input is not None:
            given = [put(at_input, x) if _is_floating(x) else x for x in given]
        return _through_layers(model, layers, given, extra, put)

    return Route(forward, inputs, len(spaces), select=partial(select_logits, output=output))


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return the module of this dotted name.

    Raises:
        ValueError: there is none; the message lists the modules at that level.
    """
    module = model
    path = name.split(".")
    for depth, part in enumerate(path):
        children = dict(module.named_children())
        if part not in children:
            parent = ".".join(path[:depth])
            where = f"'{parent}'" if parent else "this model"
            others = "" if parent else " ('input' and 'head' are layers of every network of images)"
            raise ValueError(f"layer '{name}' not found; {where} has {_shown(list(children), parent)}{others}")
        module = children[part]
    return module


def layer_name(model: nn.Module, layer: nn.Module) -> str:
    """Return the dotted name of a module of the model.

    Raises:
        ValueError: the module is not part of the model.
    """
    for name, module in model.named_modules():
        if module is layer:
            return name
    raise ValueError(f"the layer given ({type(layer).__name__}) is not a module of this model ({type(model).__name__})")


def _through_split(space: FeatureSpace, inputs: Sequence[Any], extra: Sequence[Any], z: Any) -> Route:
    assert space.split is not None
    features, head = space.split
    if z is None:
        with torch.no_grad():
            z = features(*cloned(inputs), *cloned(extra))
    return Route(lambda given, put: head(_placed(z, partial(put, 0))), inputs, z=z)


def _through_layers(
    model: nn.Module,
    layers: dict[nn.Module, tuple[str, int]],
    inputs: Sequence[Any],
    extra: Sequence[Any],
    put: Put,
) -> Any:
    """Return the model's output, with ``put`` applied to the outputs of these layers."""
    runs = {name: 0 for name, _ in layers.values()}

    def put_in_place(name: str, number: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            runs[name] += 1
            if runs[name] > 1:
                raise ValueError(
                    f"layer '{name}' runs more than once in a forward pass; choose a layer that runs once, "
                    "or, if the network runs it for each example in turn, give one example at a time"
                )
            return _placed(output, partial(put, number))

        return hook

    with _forward_hooks({module: put_in_place(*which) for module, which in layers.items()}):
        returned = model(*inputs, *(tree_map(_own_copy, one) for one in extra))
    for name, count in runs.items():
        if count == 0:
            raise ValueError(
                f"layer '{name}' did not run in the forward pass (a module that is only a container of others, "
                "or that is unused); choose one that does"
            )
    return returned


@contextmanager
def _forward_hooks(hooks: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _placed(output: Any, place: Callable[[Tensor], Tensor]) -> Any:
    """Return ``output`` with ``place`` applied to each of its floating-point tensors, in the same containers."""
    if isinstance(output, Tensor):
        return place(output) if _is_floating(output) else output
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(_placed(part, place) for part in output))
    if isinstance(output, list | tuple):
        return type(output)(_placed(part, place) for part in output)
    if isinstance(output, dict):
        return type(output)({key: _placed(part, place) for key, part in output.items()})
    return output


def _own_copy(value: Any) -> Any:
    """Return a copy of a tensor, since a network may modify its further arguments in place too."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _shown(names: list[str], parent: str) -> str:
    full = [f"{parent}.{name}" if parent else name for name in names]
    if not full:
        return "no layers inside"
    if len(full) > 8 and all(name.isdigit() for name in names):
        return f"{full[0]} … {full[-1]}"
    return ", ".join(full[:12]) + (" …" if len(full) > 12 else "")
