"""One forward pass of a network with its attention matrices kept, on a copy of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attention_align.attention_mode import AttentionMode
from xai_align.adapter_tools import Replica, select_logits
from xai_align.pinet.input_checks import check_logits


class Attention(NamedTuple):
    """Weights of one layer, ``[N, heads, L, L]``, and the modules that were running, outermost first."""

    weights: Tensor
    inside: tuple[str, ...]


class Ends(NamedTuple):
    """First tensor that a module was given, and what it returned."""

    given: Tensor | None
    returned: Any


@dataclass
class AttentionTrace:
    """A forward pass whose attention matrices are part of the autograd graph.

    Attributes:
        network: the copy that ran.
        arguments: what it was given.
        logits: ``[N, ...]``.
        attentions: one for each layer, in the order of execution.
        ends: first input and output of every module that ran once.
    """

    network: nn.Module
    arguments: tuple[Any, ...]
    logits: Tensor
    attentions: list[Attention]
    ends: dict[str, Ends] = field(repr=False)

    @property
    def weights(self) -> list[Tensor]:
        """The attention matrices, ``[N, heads, L, L]`` each."""
        return [one.weights for one in self.attentions]


def trace_attention(model: nn.Module, images: Tensor, extra: Sequence[Any] = ()) -> AttentionTrace:
    """Run a copy of the model, in float32 if its precision is lower, and keep its attention.

    Args:
        model: the network.
        images: ``[N, C, H, W]``.
        extra: further arguments of the model.

    Raises:
        ValueError: there is no softmax attention, or it is not from all tokens to all tokens in every layer, one layer
            after the other.

    Example::

        import timm

        network = timm.create_model("test_vit", img_size=32).eval()
        trace_attention(network, torch.rand(1, 3, 32, 32)).weights[0].shape  # [1, 2, 5, 5]: 4 patches, a class token
    """
    network: nn.Module = Replica(model, dtype=torch.float32).module
    arguments = tuple(_wide(x) for x in (images, *extra))
    running: list[tuple[str, Tensor | None]] = []
    runs: Counter[str] = Counter()
    ends: dict[str, Ends] = {}
    attentions: list[Attention] = []

    def replace(weights: Tensor) -> Tensor:
        if not weights.requires_grad:
            weights = weights.detach().requires_grad_()
        attentions.append(Attention(weights, tuple(name for name, _ in running)))
        return weights

    def begin(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
            running.append((name, given[0] if given else None))

        return hook

    def end(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            _, given = running.pop()
            runs[name] += 1
            ends[name] = Ends(given, output)

        return hook

    handles = []
    for name, module in network.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(begin(name), with_kwargs=True))
            handles.append(module.register_forward_hook(end(name)))
    with AttentionMode(replace):
        returned = network(*arguments)
    for handle in handles:
        handle.remove()
    logits = check_logits(select_logits(returned))
    ends = {name: one for name, one in ends.items() if runs[name] == 1}
    _check(type(model).__name__, len(images), attentions)
    return AttentionTrace(network, arguments, logits, attentions, ends)


def _wide(x: Any) -> Any:
    low = isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if low else x


def _check(name: str, images: int, attentions: Sequence[Attention]) -> None:
    """Raise unless every layer attends from the same tokens to the same tokens, one layer after the other."""
    if not attentions:
        raise ValueError(
            f"found no softmax attention over tokens that form a grid in {name}: it calls neither "
            "scaled_dot_product_attention nor nn.MultiheadAttention nor a softmax over [N, heads, tokens, tokens]; use "
            "a method for any network, e.g. layer_grad_cam"
        )
    for attention in attentions:
        shape = list(attention.weights.shape)
        where = _where(attention, name)
        if len(shape) != 4 or shape[0] != images:
            raise ValueError(
                f"the attention {where} has shape {shape} for {images} image(s), so it is within windows or groups of "
                "tokens; methods that follow attention through the layers need matrices [N, heads, tokens, tokens]"
            )
        tokens = attentions[0].weights.shape[-1]
        if shape[2:] != [tokens, tokens]:
            raise ValueError(
                f"the attention {where} is from {shape[2]} to {shape[3]} tokens, and that of the first layer is over "
                f"{tokens}: the number of tokens changes in {name}, and attention cannot be followed through its layers"
            )
    for earlier, later in pairwise(attentions):
        if not _depends(later.weights, earlier.weights):
            raise ValueError(
                f"the attention {_where(later, name)} does not depend on that {_where(earlier, name)} before it: "
                f"{name} has parallel attention layers, which cannot be followed one after the other"
            )


def _where(attention: Attention, name: str) -> str:
    return f"at '{attention.inside[-1]}'" if attention.inside else f"in {name}"


def _depends(later: Tensor, earlier: Tensor) -> bool:
    """Return whether a tensor was computed from another one, by the graph of autograd."""
    seen: set[Any] = set()
    left = [later.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if node is earlier.grad_fn or getattr(node, "variable", None) is earlier:
            return True
        seen.add(node)
        left += [following for following, _ in node.next_functions]
    return False
