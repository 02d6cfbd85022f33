"""Whether a layer cuts a network in two, so that all evidence passes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from xai_align._tools.logits import select_logits
from xai_align._tools.replica import Replica
from xai_align.features.routes import find_layer
from xai_align.pinet.head_probe import signature

_known: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], bool]] = WeakKeyDictionary()


def is_cut(model: nn.Module, layers: str | tuple[str, ...], inputs: Sequence[Any], extra: Sequence[Any] = ()) -> bool:
    """Return whether nothing of the input reaches the output past these layers.

    The network runs twice on one example: as it is, and on noise with the layers' outputs put in place that they had
    before. Behind a cut the logits are the same. A layer that does not run exactly once is no cut. What was found is
    remembered for the model and the shape of its inputs.

    Args:
        model: the network; a replica of it runs.
        layers: dotted name of a layer, or several that cut it together.
        inputs: the model's inputs; the first example is taken.
        extra: further arguments.

    Raises:
        ValueError: there is no such layer.

    Example::

        is_cut(resnet, "layer2", (images,))  # True
        is_cut(resnet, "layer2.0.conv1", (images,))  # False: the shortcut goes round it
    """
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    known = _known.setdefault(model, {})
    key = (signature(model), names, tuple((tuple(x.shape[1:]), x.dtype) for x in inputs if isinstance(x, Tensor)))
    if key not in known:
        known[key] = _measured(model, names, inputs, extra)
    return known[key]


def cutting_layer(model: nn.Module, layer: str, inputs: Sequence[Any]) -> str | None:
    """Return ``layer`` or the innermost module around it that is a cut, None if there is none.

    Stages that a library names may lie inside a residual branch: the block around it is the cut.
    """
    while layer:
        if is_cut(model, layer, inputs):
            return layer
        layer = layer.rpartition(".")[0]
    return None


def _measured(model: nn.Module, names: tuple[str, ...], inputs: Sequence[Any], extra: Sequence[Any]) -> bool:
    one = tuple(x[:1].detach().clone() if isinstance(x, Tensor) else x for x in inputs)
    extra = tree_map(lambda x: x[:1] if isinstance(x, Tensor) and x.dim() and len(x) == len(inputs[0]) else x, extra)
    copy = Replica(model)
    kept: dict[str, list[Any]] = {name: [] for name in names}
    holding = False

    def put_in_place(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if holding:
                return kept[name][0] if kept[name] else output
            kept[name].append(tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, output))
            return None

        return hook

    for name in names:
        find_layer(copy.module, name).register_forward_hook(put_in_place(name))
    with torch.inference_mode(False), torch.no_grad():
        plain = select_logits(copy.module(*(x.clone() if isinstance(x, Tensor) else x for x in one), *extra))
        if any(len(values) != 1 for values in kept.values()):
            return False
        holding = True
        try:
            held = select_logits(copy.module(*map(_other, one), *extra))
        except Exception:  # a network that refuses noise
            return False
    tolerance = 64 * torch.finfo(plain.dtype).eps * plain.abs().max()
    return bool((held - plain).abs().max() <= tolerance)


def _other(x: Any) -> Any:
    """Another input of the same kind."""
    if not isinstance(x, Tensor):
        return x
    if not x.is_floating_point():
        return torch.zeros_like(x)
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(104_729)).to(x)
