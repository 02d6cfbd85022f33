"""A copy of a network that returns its logits alone, and whose layers have their own names."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from xai_align._tools.logits import select_logits
from xai_align._tools.replica import Replica
from xai_align.features.unwrapping import network_of


def returning_logits(model: nn.Module, output: str | int | None = None) -> Replica:
    """Return a copy, with the model's own parameters, that returns only one of the outputs: the logits.

    For methods and metrics without an ``output`` option. The copy is of the network's class and has its layers' names,
    so that plugins know it, which a wrapper (:class:`~xai_align._tools.logits.LogitsOf`) would prevent. The output is
    selected in the innermost network, so it is also selected where compiled and data-parallel models are unwrapped.

    Args:
        model: the model; it is not changed.
        output: as for :func:`~xai_align._tools.logits.select_logits`.

    Example::

        copy = returning_logits(model)
        copy.module(images)  # model(images)
        copy.rebind(model.conv2) is copy.module.conv2  # True
    """
    copy = Replica(model, live=True)

    def select(module: nn.Module, args: Any, returned: Any) -> Tensor:
        return select_logits(returned, output)

    copy.of(network_of(model)[0]).register_forward_hook(select)
    return copy
