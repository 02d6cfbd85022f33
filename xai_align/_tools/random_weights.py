"""Detection of a model's random weights: drawn when it was built, and neither loaded nor trained since.

A model that a function returns does not record whether it was trained. So while the function runs, every operation of
PyTorch is followed: a tensor is random if a random generator filled it, or if it was computed from random ones. Copying
loaded values into it, or a step of an optimizer, ends that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Smallest share of random weights for which a model as a whole is called random.
_MOST = 0.5


class WeightOrigins(TorchDispatchMode):
    """Dispatch mode that follows random numbers into the tensors that hold them."""

    def __init__(self) -> None:
        super().__init__()
        #: The storages with random numbers, by address. They are kept, so that no other gets their address.
        self._random: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = _tensors((args, kwargs))
        schema = func._schema
        written = [one for one, argument in zip(args, schema.arguments, strict=False) if _is_written(argument)]
        outputs = _tensors(made) + _tensors(written) + _tensors([(kwargs or {}).get("out")])
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._mark(outputs)
            return made
        overwritten = {id(one) for one in _tensors(written)} if _overwrites(func) else set()
        if any(self._is_random(one) for one in given if id(one) not in overwritten):
            self._mark(outputs)
        else:
            self._unmark(outputs)
        return made

    def trained(self, tensors: Iterable[Tensor]) -> None:
        """Record that an optimizer changed these tensors."""
        self._unmark(list(tensors))

    def random_weights(self, model: nn.Module) -> list[str]:
        """Return the names of the model's parameters that are random."""
        return [name for name, one in model.named_parameters() if one.numel() > 1 and self._is_random(one)]

    def _is_random(self, tensor: Tensor) -> bool:
        return _address(tensor) in self._random

    def _mark(self, tensors: Iterable[Tensor]) -> None:
        for one in tensors:
            address = _address(one)
            if address and one.is_floating_point():
                self._random[address] = one.untyped_storage()

    def _unmark(self, tensors: Iterable[Tensor]) -> None:
        for one in tensors:
            self._random.pop(_address(one), None)


@contextmanager
def following_weights() -> Iterator[WeightOrigins]:
    """Follow random numbers while the block builds a model.

    Example::

        with following_weights() as origins:
            model = nn.Linear(3, 2)
        origins.random_weights(model)  # ["weight", "bias"]
    """
    origins = WeightOrigins()

    def stepped(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        origins.trained(one for group in optimizer.param_groups for one in group["params"])

    handle = register_optimizer_step_post_hook(stepped)
    try:
        with origins:
            yield origins
    finally:
        handle.remove()


def random_note(model: nn.Module, names: list[str]) -> str:
    """Return the sentence about random weights: all weights, or those named.

    Example::

        >>> random_note(nn.Linear(3, 2), ["weight", "bias"])
        'these weights are random (untrained)'
    """
    numbers = {name: one.numel() for name, one in model.named_parameters()}
    if not names or sum(numbers[name] for name in names) >= _MOST * sum(numbers.values()):
        return RANDOM
    shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return f"{RANDOM}: {shown}, {len(names)} of the model's {len(numbers)} tensors of weights"


#: The sentence about a model whose weights are random.
RANDOM = "these weights are random (untrained)"


def _tensors(value: Any) -> list[Tensor]:
    return [one for one in tree_leaves(value) if isinstance(one, Tensor)]


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _overwrites(func: Any) -> bool:
    """Return whether an operation in place ignores the old values: copying and filling."""
    return str(func.overloadpacket).removeprefix("aten.") in ("copy_", "fill_", "zero_", "set_", "_foreach_copy_")


def _address(tensor: Tensor) -> int:
    try:
        return 0 if tensor.is_meta else tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, quantised, fake
        return 0
