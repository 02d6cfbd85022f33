"""Limit on the size of models built from a file, given by the size of its weights and not by its config."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Limit on the numbers allocated while the model is built, as a multiple of those in the file: the weights, copies of
#: them, and a head for other classes that is discarded.
TIMES = 8
#: Numbers allowed in addition, for small files: 128 MiB in float32.
BESIDE = 2**25


@contextmanager
def no_larger_than(tensors: Mapping[str, Tensor] | Iterable[Tensor], source: str) -> Iterator[None]:
    """Raise before more is allocated in the block than the weights of a file justify.

    Args:
        tensors: the tensors of the file.
        source: the file, for the message.

    Raises:
        ValueError: more numbers would be allocated in the block than :data:`TIMES` times those of the file plus
            :data:`BESIDE`.

    Example::

        >>> import torch
        >>> with no_larger_than([torch.zeros(3)], "config.json"):
        ...     torch.empty(10**6, 10**6)
        Traceback (most recent call last):
        ...
        ValueError: 'config.json' describes a model of more than 1000000000000 numbers, but its weights have only 3
    """
    values = tensors.values() if isinstance(tensors, Mapping) else tensors
    with _Counting(sum(one.numel() for one in values), source):
        yield


class _Counting(TorchDispatchMode):
    """Dispatch mode that counts the numbers allocated by factory functions, such as ``empty(size)``."""

    def __init__(self, given: int, source: str) -> None:
        super().__init__()
        self.given, self.source, self.asked = given, source, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], list | tuple) and all(isinstance(one, int) for one in args[0]):
            self.asked += math.prod(args[0])
            if self.asked > TIMES * self.given + BESIDE:
                raise ValueError(
                    f"'{self.source}' describes a model of more than {self.asked} numbers, "
                    f"but its weights have only {self.given}"
                )
        return func(*args, **(kwargs or {}))
