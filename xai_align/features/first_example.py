"""The first example of a batch among a model's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map


def first_example(arguments: Sequence[Any], count: int) -> tuple[Any, ...]:
    """Return the arguments, of each tensor with ``count`` examples the first one.

    Example::

        mask, scale = first_example((torch.ones(2, 5), 3.0), count=2)
        mask.shape  # [1, 5]
    """

    def first(x: Any) -> Any:
        return x[:1] if isinstance(x, Tensor) and x.dim() and len(x) == count else x

    return tuple(tree_map(first, tuple(arguments)))
