"""Splitting of inputs, targets and further arguments into batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from xai_align._tools.checks import check_integer


class Batch(NamedTuple):
    """A slice of the examples.

    Attributes:
        inputs: each sliced to these examples.
        target: sliced if it has one entry for each example, else unchanged.
        extra: further arguments of the model, sliced in the same way.
    """

    inputs: tuple[Tensor, ...]
    target: Any
    extra: tuple[Any, ...] | None


def batches_of(inputs: tuple[Tensor, ...], target: Any, extra: tuple[Any, ...] | None, size: int | None) -> list[Batch]:
    """Return batches of at most ``size`` examples; None: a single batch.

    Raises:
        ValueError: the size is not positive.
    """
    if size is not None:
        check_integer("internal_batch_size", size)
    return list(_slices(inputs, target, extra, size))


def _slices(
    inputs: tuple[Tensor, ...], target: Any, extra: tuple[Any, ...] | None, size: int | None
) -> Iterator[Batch]:
    count = len(inputs[0]) if inputs and isinstance(inputs[0], Tensor) and inputs[0].dim() else 0
    if size is None or count <= size:
        yield Batch(inputs, target, extra)
        return
    for start in range(0, count, size):
        here = slice(start, start + size)
        rest = None if extra is None else tuple(x[here] if _is_for_each(x, count) else x for x in extra)
        asked = target[here] if _is_for_each(target, count) else target
        yield Batch(tuple(x[here] for x in inputs), asked, rest)


def _is_for_each(value: Any, count: int) -> bool:
    """Return whether ``value`` has one entry for each of ``count`` examples."""
    if isinstance(value, Tensor):
        return value.dim() > 0 and len(value) == count and count > 1
    return isinstance(value, list) and len(value) == count
