"""Ends of a network's modules: what each returns, in execution order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from xai_align._tools.replica import Replica
from xai_align.features.run_with_features import cloned

T = TypeVar("T")


def module_ends(model: nn.Module, inputs: Sequence[Any], of: Callable[[Any], T]) -> list[tuple[str, T]]:
    """Return the names of a network's modules and ``of`` their outputs, in one pass in eval mode without gradients.

    As :func:`record_ends`; the network and the inputs are not changed.

    Example::

        module_ends(model, [images], lambda output: output.shape)[0]  # ("conv1", torch.Size([2, 8, 32, 32]))
    """
    copy = Replica(model, evaluate=True).module
    ends = record_ends(copy, of)
    with torch.no_grad():
        copy(*cloned(inputs))
    return ends


def record_ends(copy: nn.Module, of: Callable[[Any], T]) -> list[tuple[str, T]]:
    """Return a list that fills, as the copy runs, with the names of its modules and with ``of`` their outputs.

    Modules are in the order in which they end, which may not be that of their definition; one that runs twice is in
    the list twice, and the network itself is not in it.

    Args:
        copy: a :class:`~xai_align._tools.replica.Replica`, whose modules keep the hooks.
        of: function of a module's output; what it returns is kept, so let it return no tensors that are not needed.

    Example::

        copy = Replica(model, evaluate=True).module
        ends = record_ends(copy, lambda output: output.grad_fn)
        copy(images)
        ends[-1][0]  # "fc"
    """
    ends: list[tuple[str, T]] = []

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: ends.append((name, of(output)))

    for name, module in copy.named_modules():
        if name:
            module.register_forward_hook(note(name))
    return ends


def that_run_once(ends: Sequence[tuple[str, T]]) -> dict[str, T]:
    """Return what modules that ran once returned, by name, in the order in which they end.

    Example::

        that_run_once([("conv", 1), ("act", 2), ("norm", 3), ("act", 4)])  # {"conv": 1, "norm": 3}
    """
    runs = Counter(name for name, _ in ends)
    return {name: value for name, value in ends if runs[name] == 1}
