"""Behind a wrapper stands the network whose operations can be seen and whose layers have their own names."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Retrofitted(Protocol):
    """A module that only adds a readout to a network: :class:`~xai_align.pinet.ExactPiNet`."""

    backbone: nn.Module
    feature_space: Any


def unwrapped(model: Any) -> tuple[Any, Any]:
    """The network inside compiled, data-parallel and retrofitted models; where a retrofit wants it read, or None."""
    where = None
    while isinstance(model, nn.Module):
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(model, Retrofitted):
            model, where = model.backbone, model.feature_space
        else:
            break
    return model, where
