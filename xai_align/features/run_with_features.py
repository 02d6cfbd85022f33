"""A forward pass that also returns the features at a split, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from xai_align.hookspecs import FeatureSpace


def run_and_take_features(
    model: nn.Module, space: FeatureSpace, inputs: Sequence[Any], extra: Sequence[Any]
) -> tuple[Any, Any]:
    """Return a replica's output and its features, in one pass where the forward pass computes them once."""
    assert space.split is not None
    features = space.split.features
    owner, name = getattr(features, "__self__", None), getattr(features, "__name__", "")
    if not isinstance(owner, nn.Module) or getattr(owner, name, None) != features:
        return model(*cloned(inputs), *cloned(extra)), features(*cloned(inputs), *cloned(extra))
    taken: list[Any] = []

    def taking(*args: Any, **kwargs: Any) -> Any:
        taken.append(features(*args, **kwargs))
        return taken[-1]

    object.__setattr__(owner, name, taking)
    try:
        returned = model(*cloned(inputs), *cloned(extra))
    finally:
        object.__delattr__(owner, name)
    return returned, taken[0] if len(taken) == 1 else features(*cloned(inputs), *cloned(extra))


def cloned(arguments: Sequence[Any]) -> list[Any]:
    """Return arguments with copies of all tensors in them, because a forward pass may write to its arguments."""
    return [tree_map(_clone, one) for one in arguments]


def _clone(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x
