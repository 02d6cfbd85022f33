"""A limit on what is built from a file: a model is no larger than its weights, whatever a config asks for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: How many times the numbers in the file may be allocated while the model is built: the weights, copies of them, and a
#: head for other classes that is thrown away.
TIMES = 8
#: Numbers that are allowed beside that, for small files: 128 MiB in float32.
BESIDE = 2**25


@contextmanager
def no_larger_than(tensors: Mapping[str, Tensor] | Iterable[Tensor], source: str) -> Iterator[None]:
    """Raise before anything is allocated that the weights of a file give no reason for.

    Args:
        tensors: of the file.
        source: the file, for the message.

    Raises:
        ValueError: inside, more numbers are about to be allocated than :data:`TIMES` those of the file, and
            :data:`BESIDE`.

    Example::

        >>> import torch
        >>> with no_larger_than([torch.zeros(3)], "config.json"):
        ...     torch.empty(10**6, 10**6)
        Traceback (most recent call last):
        ...
        ValueError: 'config.json' asks for a model with more than 1000000000000 numbers, and its weights are only 3
    """
    values = tensors.values() if isinstance(tensors, Mapping) else tensors
    with _Counting(sum(one.numel() for one in values), source):
        yield


class _Counting(TorchDispatchMode):
    """Counts the numbers that factory functions, ``empty(size)`` and the like, are asked for."""

    def __init__(self, given: int, source: str) -> None:
        super().__init__()
        self.given, self.source, self.asked = given, source, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], list | tuple) and all(isinstance(one, int) for one in args[0]):
            self.asked += math.prod(args[0])
            if self.asked > TIMES * self.given + BESIDE:
                raise ValueError(
                    f"'{self.source}' asks for a model with more than {self.asked} numbers, "
                    f"and its weights are only {self.given}"
                )
        return func(*args, **(kwargs or {}))
