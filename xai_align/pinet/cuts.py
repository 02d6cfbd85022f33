"""Test for layers that cut a network in two, so that all evidence passes through them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from xai_align._tools.drawn import noise_like
from xai_align._tools.full_precision import full_precision
from xai_align._tools.logits import select_logits
from xai_align._tools.model_state import signature
from xai_align._tools.replica import LOW_PRECISION, Replica
from xai_align._tools.thread_state import hides_interrupt
from xai_align.features.first_example import first_example
from xai_align.features.routes import find_layer
from xai_align.features.run_with_features import cloned
from xai_align.pinet.precision import OneDtype

#: For each network the state of its parameters, and what was measured in it.
_known: WeakKeyDictionary[nn.Module, tuple[int, dict[tuple[Any, ...], bool]]] = WeakKeyDictionary()


def is_cut(
    model: nn.Module,
    layers: str | tuple[str, ...],
    inputs: Sequence[Any],
    extra: Sequence[Any] = (),
    output: str | int | None = None,
) -> bool:
    """Return whether the input reaches the output only through these layers.

    Runs the network twice on one example: unchanged, and on noise with the layers' outputs replaced by those of the
    first run. Behind a cut the logits are the same. A layer that does not run exactly once is not a cut. Low precision
    would hide in its rounding what bypasses a layer, so such a model runs as a copy in float32. The result is cached
    for the model and the shape of its inputs.

    Args:
        model: the network; a replica of it runs.
        layers: dotted name of a layer, or several that cut it together.
        inputs: the model's inputs; the first example is used.
        extra: further arguments.
        output: which of the model's outputs are the logits.

    Raises:
        ValueError: there is no such layer.

    Example::

        is_cut(resnet, "layer2", (images,))  # True
        is_cut(resnet, "layer2.0.conv1", (images,))  # False: the shortcut bypasses it
    """
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    state = signature(model)
    kept = _known.get(model)
    if kept is None or kept[0] != state:
        kept = _known[model] = (state, {})
    key = (names, output, tuple((tuple(x.shape[1:]), x.dtype) for x in inputs if isinstance(x, Tensor)))
    if key not in kept[1]:
        kept[1][key] = _measured(model, names, inputs, extra, output)
    return kept[1][key]


def _measured(
    model: nn.Module,
    names: tuple[str, ...],
    inputs: Sequence[Any],
    extra: Sequence[Any],
    output: str | int | None,
) -> bool:
    one = tuple(x[:1].detach().clone() if isinstance(x, Tensor) else x for x in inputs)
    extra = first_example(extra, len(inputs[0]))
    low = any(isinstance(x, Tensor) and x.dtype in LOW_PRECISION for x in (*inputs, *model.parameters()))
    copy = Replica(model, dtype=torch.float32 if low else None)
    if low:
        one, extra = tree_map(_widened, (one, tuple(extra)))
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
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(full_precision(inputs[0]))
        if low:
            stack.enter_context(OneDtype(torch.float32, narrow=LOW_PRECISION))
        plain = select_logits(copy.module(*cloned([*one, *extra])), output)
        if any(len(values) != 1 for values in kept.values()):
            return False
        holding = True
        try:
            held = select_logits(copy.module(*map(_other, one), *cloned(extra)), output)
        except Exception as error:  # the network does not accept noise
            if hides_interrupt(error):
                raise
            return False
    tolerance = 64 * torch.finfo(plain.dtype).eps * plain.abs().max()
    return bool((held - plain).abs().max() <= tolerance)


def _widened(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in LOW_PRECISION else x


def _other(x: Any) -> Any:
    """Return a different input of the same shape and dtype."""
    if not isinstance(x, Tensor):
        return x
    if not x.is_floating_point():
        return torch.zeros_like(x)
    return noise_like(x, 104_729)
