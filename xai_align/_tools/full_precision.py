"""Computation without autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def full_precision(like: Tensor | str) -> AbstractContextManager[Any]:
    """Return a context without autocast on the device of a tensor, or of this type.

    Under autocast products are rounded, so that sums of terms differ from their total.

    Example::

        with torch.autocast("cpu", torch.bfloat16), full_precision(images):
            (images @ images.mT).dtype  # torch.float32
    """
    device = like.device.type if isinstance(like, Tensor) else like
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
