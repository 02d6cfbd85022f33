"""Further passes of a training step must not blur what BatchNorm remembers.

A step may show the classifier images that are not from the data: mixed, or on other backgrounds. Each pass is
normalised by its own batch, as ever in training. If it also went into the running statistics, these would be of
a mixture that no pass was ever normalised by, and in eval mode ordinary images would be seen wrongly. (Xie et al.
2020, "Adversarial examples improve image recognition", keep two sets of statistics for this reason.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from xai_align._tools.model_state import modules_of


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm that trains normalises by the batch and remembers nothing of it; frozen ones stay frozen."""
    remembering = [m for m in modules_of(model) if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    try:
        for module in remembering:
            module.track_running_stats = False
        yield
    finally:
        for module in remembering:
            module.track_running_stats = True
