"""Logits of single layers of a transformer: the network's own head on the output of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from attention_align.attention_trace import AttentionTrace
from xai_align.adapter_tools import select_logits


def layer_logits(trace: AttentionTrace) -> Iterator[Tensor]:
    """Yield, for each layer, the logits ``[N, ...]`` of the network without the layers after it.

    The part after the last layer (final norm, pooling, head) is the network's own; it runs on the output of each layer
    in turn. A layer is the outermost module around one attention that turns tokens into tokens of the same shape.

    Raises:
        ValueError: the network has no such modules, something happens between them, or its output depends on more than
            the last of them.
    """
    layers = _layers(trace)
    outputs = [_output(trace, name) for name in layers]
    stand_in: list[Tensor] = [trace.logits]
    for name in layers:
        _return_instead(trace.network.get_submodule(name), trace.ends[name].returned, stand_in)
    _check_last(trace, outputs[-1], stand_in)
    for z in outputs:
        stand_in[0] = z
        yield select_logits(trace.network(*trace.arguments))


def _layers(trace: AttentionTrace) -> list[str]:
    contained = Counter(name for attention in trace.attentions for name in attention.inside)
    tokens = trace.weights[0].shape[-1]
    layers: list[str] = []
    for attention in trace.attentions:
        fitting = [n for n in attention.inside if contained[n] == 1 and n in trace.ends and _keeps(trace, n, tokens)]
        if not fitting:
            inner = f"'{attention.inside[-1]}'" if attention.inside else "the network itself"
            raise ValueError(
                f"found no layer around the attention in {inner}: no module around this one attention turns tokens "
                "[N, L, C] into tokens of the same shape"
            )
        layers.append(fitting[0])
    for before, after in pairwise(layers):
        entered = trace.ends[after].given
        if entered is None or not torch.equal(_output(trace, before), entered):
            raise ValueError(
                f"the output of '{before}' is not the input of '{after}': something happens between the layers, so the "
                "modules around the attention are not the network's layers"
            )
    return layers


def _keeps(trace: AttentionTrace, name: str, tokens: int) -> bool:
    """Return whether a module turns ``[N, L, C]`` into ``[N, L, C]``."""
    given, returned = trace.ends[name].given, _tokens(trace.ends[name].returned)
    if given is None or returned is None or given.dim() != 3:
        return False
    return given.shape == returned.shape and given.shape[1] == tokens


def _tokens(returned: Any) -> Tensor | None:
    """Return a layer's output, which may be the first of several."""
    first = returned[0] if isinstance(returned, tuple | list) and returned else returned
    return first if isinstance(first, Tensor) else None


def _output(trace: AttentionTrace, name: str) -> Tensor:
    output = _tokens(trace.ends[name].returned)
    assert output is not None
    return output


def _return_instead(layer: nn.Module, returned: Any, stand_in: list[Tensor]) -> None:
    """Let a layer of the copy return the stand-in, in the form of what it had returned, without computing anything."""

    def form(*args: Any, **kwargs: Any) -> Any:
        if isinstance(returned, Tensor):
            return stand_in[0]
        return type(returned)([stand_in[0], *returned[1:]])

    layer.forward = form
    layer.register_forward_hook(form)  # whatever the user's own hooks return


def _check_last(trace: AttentionTrace, z: Tensor, stand_in: list[Tensor]) -> None:
    """Raise unless the output of the last layer gives the network's logits, and they depend on nothing else."""
    images, *extra = trace.arguments
    stand_in[0] = z.detach()
    logits = select_logits(trace.network(images.clone().requires_grad_(), *extra))
    # the copy's parameters require no gradient: what requires one here has come from the images by another way
    same = torch.allclose(logits, trace.logits, rtol=1e-3, atol=1e-4 * float(trace.logits.detach().abs().max()))
    if logits.requires_grad or not same:
        raise ValueError(
            "the network's output is not a function of its last layer's output alone; the answer of a single layer is "
            "not defined"
        )
