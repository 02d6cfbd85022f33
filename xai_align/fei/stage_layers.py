"""Layers whose deviation counts: a network's stages, also of networks that no plugin supports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

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
    """Return the last module that runs once at each size of feature maps ``[N, C, h, w]``, except the input's size."""
    runs: Counter[str] = Counter()
    last: dict[tuple[int, ...], list[str]] = {}

    def note(name: str, out: Any) -> None:
        runs[name] += 1
        if isinstance(out, Tensor) and out.dim() == 4 and out.shape[2:] not in (inputs.shape[2:], (1, 1)):
            last.setdefault(tuple(out.shape[2:]), []).append(name)

    copy = Replica(model).module
    for name, module in copy.named_modules():
        if name:
            module.register_forward_hook(lambda module, args, out, name=name: note(name, out))
    with torch.no_grad():
        copy(inputs, *additional_forward_args)
    once = [[name for name in names if runs[name] == 1] for names in last.values()]
    return tuple(names[-1] for names in once if names)
