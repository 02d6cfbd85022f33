"""Layers whose deviation counts: a network's stages, also of networks that no plugin supports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.batches import rows_of
from xai_align._tools.replica import Replica
from xai_align.plugins import stages
from xai_align.question import QuestionModel


def stage_layers(model: nn.Module, inputs: Tensor, additional_forward_args: Sequence[Any] = ()) -> tuple[str, ...]:
    """Return names of layers: the stages from a plugin, else the last module at each resolution; may be empty.

    Args:
        model: the network.
        inputs: images ``[N, C, H, W]``, for one forward pass if no plugin supports the model.
        additional_forward_args: further arguments of the model.
    """
    inner = model.model if isinstance(model, QuestionModel) else model
    return stages(inner) or last_at_each_resolution(model, inputs, additional_forward_args)


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


def _shapes(
    model: nn.Module, inputs: Tensor, additional_forward_args: Sequence[Any]
) -> tuple[dict[str, tuple[int, ...]], Counter[str]]:
    """Return the shapes of modules' outputs, in the order in which they end, and how often they run."""
    runs: Counter[str] = Counter()
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, out: Any) -> None:
        runs[name] += 1
        if isinstance(out, Tensor):
            shapes[name] = tuple(out.shape)

    copy = Replica(model).module
    for name, module in copy.named_modules():
        if name:
            module.register_forward_hook(lambda module, args, out, name=name: note(name, out))
    with torch.no_grad():
        copy(inputs, *additional_forward_args)
    return shapes, runs


def _has_rows(x: Any, count: int) -> bool:
    return isinstance(x, Tensor) and x.dim() > 0 and len(x) == count
