"""A network cut in two at the output of one of its modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xai_align._tools.logits import select_logits
from xai_align._tools.replica import Replica
from xai_align.features.routes import find_layer
from xai_align.hookspecs import FeatureSpace, Split


def split_at_layer(model: nn.Module, layer: str, image: Tensor, output: str | int | None = None) -> Split:
    """Return the network in two parts: images to the layer's output, and that output to the logits.

    Both run copies of the network. In the second one, modules that run once, before the layer, return what they return
    for an image of zeros instead of running, so it costs little more than the rest of the network.

    Args:
        model: the network.
        layer: dotted name of a layer that cuts it (:func:`~xai_align.features.grid_layers.grid_layers`) and returns
            one tensor.
        image: ``[N, C, H, W]``, used only for shape, dtype and device.
        output: which of the model's outputs are the logits.

    Raises:
        ValueError: there is no such layer.

    Example::

        split = split_at_layer(model, "conv2", images[:1])
        split.head(split.features(images))  # [2, 10], equals model(images)
    """
    find_layer(model, layer)
    halves = _Halves(model, layer, tuple(image.shape[1:]), image.dtype, image.device, output)
    return Split(halves.features, halves.head)


def at_a_module(space: FeatureSpace) -> FeatureSpace:
    """Return the space without a split that :func:`split_at_layer` made.

    Its parts run copies, so that parameters would get no gradient; the space's layer is a module, which stands for it.
    """
    own = space.split is not None and isinstance(getattr(space.split.features, "__self__", None), _Halves)
    return replace(space, split=None) if own else space


class _LayerEnded(Exception):
    """End of a pass that is not needed any further."""


@dataclass(frozen=True)
class _Halves:
    model: nn.Module = field(repr=False)
    layer: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    output: str | int | None

    def features(self, *inputs: Any) -> Any:
        """Return the layer's output.

        Raises:
            ValueError: there are further arguments, which the head would need too.
        """
        if len(inputs) != 1:
            raise ValueError(
                f"the network was cut at '{self.layer}' for one batch of images, and got {len(inputs)} arguments; give "
                "the layer's name instead"
            )
        copy = Replica(self.model).module
        return self._run_to_layer(copy, inputs)

    def head(self, z: Any) -> Any:
        """Return the model's logits for the layer's output ``z``."""
        pair = torch.zeros(2, *self.shape, dtype=self._dtype_of(z), device=self.device)
        before = Replica(self.model).module
        ran: OrderedDict[str, list[Any]] = OrderedDict()
        reached: list[int] = []
        for name, module in before.named_modules():
            if name and not f"{self.layer}.".startswith(f"{name}."):
                module.register_forward_hook(partial(_remember, ran, name, reached))
        find_layer(before, self.layer).register_forward_hook(lambda *_: reached.append(1))
        before(pair)
        # a module that runs again behind the layer, as a shared activation does, has to run there
        ended = {name: outputs[0] for name, outputs in ran.items() if len(outputs) == 1 and outputs[0] is not None}
        copy = Replica(self.model).module
        count = len(tree_leaves(z)[0])
        for name, output in ended.items():
            if _is_pair(output):
                _return_instead(find_layer(copy, name), partial(_repeat, output[:1], count))
        _return_instead(find_layer(copy, self.layer), lambda: z)
        return select_logits(copy(_repeat(pair[:1], count)), self.output)

    def _run_to_layer(self, copy: nn.Module, inputs: Any) -> Any:
        taken: list[Any] = []

        def take(module: nn.Module, args: Any, output: Any) -> None:
            taken.append(output)
            raise _LayerEnded

        find_layer(copy, self.layer).register_forward_hook(take)
        try:
            copy(*inputs)
        except _LayerEnded:
            return taken[0]
        raise ValueError(f"layer '{self.layer}' did not run in the forward pass")

    def _dtype_of(self, z: Any) -> torch.dtype:
        """Return the dtype of the features if it is wider than the image's, as it is in a converted copy."""
        return torch.promote_types(self.dtype, tree_leaves(z)[0].dtype)


def _remember(
    ran: OrderedDict[str, list[Any]], name: str, reached: list[int], module: nn.Module, args: Any, output: Any
) -> None:
    ran.setdefault(name, []).append(None if reached else output)


def _return_instead(module: nn.Module, output: Callable[[], Any]) -> None:
    """Let a module of a copy return what ``output`` makes, each time it is called, without running."""
    module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
    module.forward = lambda *args, **kwargs: output()


def _repeat(one: Tensor, count: int) -> Tensor:
    """Return a batch of equal examples, which the network may write to."""
    return one.expand(count, *one.shape[1:]).clone()


def _is_pair(output: Any) -> bool:
    """Return whether this is one tensor for two equal images, and not windows, or something without a batch."""
    return isinstance(output, Tensor) and output.dim() > 0 and len(output) == 2 and torch.equal(output[0], output[1])
