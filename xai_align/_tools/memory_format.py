"""Memory formats of a network's inputs: channels-last where it is faster and changes nothing, else the caller's.

On a CPU convolutions are faster on channels-last tensors. A network that calls ``view`` or reads strides may not run
on them, or may compute something else; it gets its inputs in the format in which the caller gave them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xai_align._tools.batches import rows_of
from xai_align._tools.model_state import signature
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import hides_interrupt

#: Largest difference between the outputs in two formats that counts as rounding, relative to the largest output.
ROUNDING = {torch.float64: 1e-7, torch.float32: 1e-3}

_known: WeakKeyDictionary[nn.Module, dict[Any, bool]] = WeakKeyDictionary()


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return the memory format of a tensor, contiguous if it has no named format."""
    if not x.is_contiguous():
        for dims, named in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if x.dim() == dims and x.is_contiguous(memory_format=named):
                return named
    return torch.contiguous_format


def fastest_format(
    function: Callable[..., Any], inputs: Tensor, extra: Sequence[Any] = (), *, context: Any = None
) -> torch.memory_format:
    """Return the memory format in which a network is given its inputs.

    It is channels-last for images on a CPU if the network runs on it and gives the same output for the first example,
    up to rounding, as in the format of ``inputs``; each network is tried once. It is the format of ``inputs``
    otherwise, and for functions, which are not called for a trial.

    Args:
        function: the network, or a function of the inputs.
        inputs: the caller's inputs, ``[N, ...]``.
        extra: further arguments; those with one entry for each example are cut to the first.
        context: anything else that the output depends on, such as the precision.
    """
    own = memory_format_of(inputs)
    if inputs.dim() != 4 or inputs.device.type != "cpu" or own is torch.channels_last:
        return own
    if not isinstance(function, nn.Module):
        return own
    return torch.channels_last if _is_known_to_run(function, inputs, extra, context) else own


def _is_known_to_run(network: nn.Module, inputs: Tensor, extra: Sequence[Any], context: Any) -> bool:
    known = _known.setdefault(network, {})
    key = (signature(network), tuple(inputs.shape[1:]), inputs.dtype, len(extra), context)
    found = known.get(key)
    if found is None:
        found = _runs_channels_last(network, inputs, extra)
        known.clear()  # of another state of the parameters
        known[key] = found
    return found


def _runs_channels_last(network: nn.Module, inputs: Tensor, extra: Sequence[Any]) -> bool:
    first = inputs[:1].detach()
    rest = rows_of(extra, slice(0, 1), len(inputs))

    def outputs(x: Tensor) -> list[Tensor]:
        found = Replica(network).module(x, *(one.clone() if isinstance(one, Tensor) else one for one in rest))
        return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]

    with torch.no_grad():
        try:
            expected = outputs(first.clone())
            found = outputs(first.clone(memory_format=torch.channels_last))
        except Exception as error:
            if hides_interrupt(error):
                raise
            return False  # if it was the caller's format, the caller's own pass tells of it
    return len(found) == len(expected) and all(itertools.starmap(_agree, zip(found, expected, strict=True)))


def _agree(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    if not expected.is_floating_point() or not expected.numel():
        return True
    tolerance = ROUNDING.get(expected.dtype, 5e-2)
    size = float(expected.abs().max())
    return bool((found - expected).abs().max() <= tolerance * size)  # False for NaN
