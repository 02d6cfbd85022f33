"""Layers that represent a network's hidden layers: its stages, also for networks that no plugin supports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from xai_align._tools.batches import rows_of
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.grid_layers import grid_layers
from xai_align.features.module_ends import module_ends
from xai_align.features.unwrapping import network_of
from xai_align.plugins import stages


def stage_layers(model: nn.Module, inputs: Tensor, additional_forward_args: Sequence[Any] = ()) -> tuple[str, ...]:
    """Return names of layers: the stages from a plugin, else the last module at each resolution; may be empty.

    Args:
        model: the network.
        inputs: images ``[N, C, H, W]``, for one forward pass if no plugin supports the model.
        additional_forward_args: further arguments of the model.
    """
    inner, _ = network_of(model)
    return stages(inner) or last_at_each_resolution(inner, inputs, additional_forward_args)


#: Number of layers that stand for a network whose layers are all of one shape.
SEVERAL = 5


def layers_to_record(model: nn.Module, inputs: Tensor, additional_forward_args: Sequence[Any] = ()) -> tuple[str, ...]:
    """Return names of layers for measures of hidden layers: :func:`stage_layers`, or others if there are none.

    Of a network whose maps all have one size, or whose features are tokens, these are some of the layers on a grid over
    the image through which all evidence passes (:func:`~xai_align.features.grid_layers.grid_layers`), evenly spaced up
    to the last one; of any other, the parts it consists of, from the first one with parameters, except the one that
    gives the output.

    Args:
        model: the network.
        inputs: ``[N, ...]``.
        additional_forward_args: further arguments of the model.

    Example::

        layers_to_record(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(2, 4))  # ("0", "1")
    """
    inner, _ = network_of(model)
    extra = tuple(additional_forward_args)
    found = stages(inner)
    if not found and inputs.dim() == 4:
        found = last_at_each_resolution(inner, inputs, extra)
        if len(found) < 2:  # the maps of a transformer are those of its patches alone
            tensors, _ = _shapes(inner, inputs[:1], rows_of(extra, slice(0, 1), len(inputs)))
            names = [layer.name for layer in grid_layers(inner, inputs[:1], extra=extra) if layer.name in tensors]
            found = _evenly(names) if len(names) > len(found) else found
    return found or _parts(inner, inputs, extra)


def _evenly(names: Sequence[str]) -> tuple[str, ...]:
    """Return :data:`SEVERAL` names or fewer, evenly spaced, with the last one."""
    count = min(SEVERAL, len(names))
    return tuple(names[(number + 1) * len(names) // count - 1] for number in range(count))


def _parts(model: nn.Module, inputs: Tensor, extra: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the outermost modules that run once and return one entry for each example, except the last one."""
    shapes, runs = _shapes(model, inputs[:1], rows_of(extra, slice(0, 1), len(inputs)))
    part, prefix = model, ""
    while True:
        children = [(prefix + name, child) for name, child in part.named_children() if prefix + name in runs]
        if len(children) != 1 or not any(True for _ in children[0][1].children()):
            break
        prefix, part = f"{children[0][0]}.", children[0][1]
    first = next((at for at, (_, child) in enumerate(children) if any(True for _ in child.parameters())), 0)
    names = {name for name, _ in children[first:] if runs[name] == 1}
    once = [name for name, shape in shapes.items() if name in names and shape[:1] == (1,)]
    return tuple(once[:-1])


def last_at_each_resolution(
    model: nn.Module, inputs: Tensor, additional_forward_args: Sequence[Any] = ()
) -> tuple[str, ...]:
    """Return the last module that runs once at each size of feature maps ``[N, C, h, w]``, except the input's size.

    Two passes with batches of two sizes tell which outputs have one entry for each example, and not for each window.
    """
    count = len(inputs)
    one = (inputs[:1], rows_of(additional_forward_args, slice(0, 1), count))
    if count == 1:
        tripled = [x.expand(3, *x.shape[1:]) if _has_rows(x, 1) else x for x in additional_forward_args]
        batches = [one, (inputs.expand(3, *inputs.shape[1:]), tuple(tripled))]
    else:
        batches = [one, (inputs, tuple(additional_forward_args))]
    (first, runs), (second, _) = (_shapes(model, x, extra) for x, extra in batches)
    last: dict[tuple[int, ...], list[str]] = {}
    for name, shape in first.items():
        maps = len(shape) == 4 and shape[2:] not in (tuple(inputs.shape[2:]), (1, 1))
        if maps and shape[0] == 1 and second.get(name, ())[:1] == (len(batches[1][0]),):
            last.setdefault(shape[2:], []).append(name)
    once = [[name for name in names if runs[name] == 1] for names in last.values()]
    return tuple(names[-1] for names in once if names)


@restores_thread_state
def _shapes(
    model: nn.Module, inputs: Tensor, additional_forward_args: Sequence[Any]
) -> tuple[dict[str, tuple[int, ...]], Counter[str]]:
    """Return the shapes of modules' outputs in eval mode, in the order in which they end, and how often they run."""
    ends = module_ends(
        model, [inputs, *additional_forward_args], lambda output: output.shape if isinstance(output, Tensor) else None
    )
    shapes = {name: tuple(shape) for name, shape in ends if shape is not None}
    return shapes, Counter(name for name, _ in ends)


def _has_rows(x: Any, count: int) -> bool:
    return isinstance(x, Tensor) and x.dim() > 0 and len(x) == count
