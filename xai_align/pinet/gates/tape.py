"""Tape of a recorded pass: saved values and decisions, which a replay takes in the same order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


class OutOfStep(RuntimeError):
    """Replay that differs from the recording."""

    def __init__(self) -> None:
        super().__init__(
            "the network did not repeat its own steps: it computes something else at a second call "
            "(random numbers, or control flow that depends on values), so no linear decomposition of it holds"
        )


class Tape:
    """Values and marks in the order of recording; :meth:`rewind` starts to return them again."""

    def __init__(self) -> None:
        #: Saved values, each with the versions of its tensors.
        self._values: list[tuple[Any, list[int]]] = []
        self._marks: list[int] = []
        self._next_value = self._next_mark = 0
        #: Indices of saved values by their storage.
        self._by_storage: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Any:
        """Return the current state of a saved value."""
        return self._values[index][0]

    def save(self, value: Any) -> None:
        """Append a value."""
        tensors = tensors_of(value)
        for tensor in tensors:
            self._by_storage.setdefault(storage(tensor), []).append(len(self._values))
        self._values.append((value, [tensor._version for tensor in tensors]))

    def saved(self) -> Any:
        """Return the next saved value.

        Raises:
            OutOfStep: there is none left.
        """
        if self._next_value == len(self._values):
            raise OutOfStep
        value, versions = self._values[self._next_value]
        self._next_value += 1
        if [tensor._version for tensor in tensors_of(value)] != versions:
            raise RuntimeError(
                "a gate was overwritten in place between recording and replay; please report the network"
            )
        return value

    def mark(self, mark: int) -> None:
        """Append a mark."""
        self._marks.append(mark)

    def marked(self) -> int:
        """Return the next mark.

        Raises:
            OutOfStep: there is none left.
        """
        if self._next_mark == len(self._marks):
            raise OutOfStep
        self._next_mark += 1
        return self._marks[self._next_mark - 1]

    def rewind(self) -> None:
        """Start again at the first value and the first mark."""
        self._next_value = self._next_mark = 0

    def check_end(self) -> None:
        """Raise :class:`OutOfStep` if a value or a mark was not used."""
        if self._next_value != len(self._values) or self._next_mark != len(self._marks):
            raise OutOfStep

    def copy_before_write(self, written: Any) -> None:
        """Copy saved values that share this tensor's memory, because an operation is about to write to it."""
        if not isinstance(written, Tensor) or storage(written) not in self._by_storage:
            return
        for index in self._by_storage.pop(storage(written)):
            value = tree_map(_copied, self._values[index][0])
            self._values[index] = (value, [tensor._version for tensor in tensors_of(value)])

    def clear(self) -> None:
        """Discard all values and marks."""
        self._values.clear()
        self._marks.clear()
        self._by_storage.clear()


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors of a value, with a fast path for a single tensor, which avoids the tree traversal."""
    if isinstance(value, Tensor):
        return [value]
    if value is None:
        return []
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def storage(tensor: Tensor) -> int:
    """Return the address of a tensor's memory, 0 for tensors without one."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def storages(tensors: Iterable[Tensor]) -> set[int]:
    """Return the addresses of the memory of several tensors."""
    return {storage(tensor) for tensor in tensors} - {0}


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
