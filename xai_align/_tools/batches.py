"""Splitting of inputs, targets and further arguments into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        ValueError: the size is not positive, or see :func:`check_rows`.
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
        (asked,) = rows_of((target,), here, count)
        yield Batch(tuple(x[here] for x in inputs), asked, None if extra is None else rows_of(extra, here, count))


def rows_of(values: Iterable[Any], rows: slice | Tensor, count: int, *, axes: int = 1) -> tuple[Any, ...]:
    """Select rows of the values that have one entry for each of ``count`` examples; others are unchanged.

    Args:
        values: tensors and lists, or anything else.
        rows: a slice, or indices ``[M]`` (tensors only).
        count: number of examples.
        axes: smallest number of axes of a tensor with one entry for each example; lists have one.

    Raises:
        ValueError: rows are a slice, and see :func:`check_rows`.
    """
    values = list(values)
    if isinstance(rows, slice):
        check_rows(values, len(range(count)[rows]), count, axes=axes)

    def for_each(value: Any) -> bool:
        if isinstance(value, Tensor):
            return value.dim() >= axes and len(value) == count
        return isinstance(value, list) and isinstance(rows, slice) and axes == 1 and len(value) == count

    return tuple(value[rows] if for_each(value) else value for value in values)


def check_rows(values: Iterable[Any], batch: int, count: int, *, axes: int = 1) -> None:
    """Raise if a tensor has one entry for each example of a batch, and not for each of all examples.

    It would be passed on unchanged and taken for the batch's own, in every batch.

    Args:
        values: tensors, or anything else.
        batch: number of examples in a batch.
        count: number of all examples.
        axes: smallest number of axes of a tensor with one entry for each example.

    Raises:
        ValueError: one has.
    """
    for value in values:
        if isinstance(value, Tensor) and value.dim() >= axes and len(value) == batch != count and batch > 1:
            raise ValueError(
                f"a tensor of shape {list(value.shape)} was given with {count} examples, which are processed "
                f"{batch} at a time, so it would be used again in every batch; give one entry for each of the {count} "
                "examples, or add a first axis of one if it belongs to all"
            )
