"""Tensors made in inference mode, which autograd refuses to save."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def ordinary(values: Any) -> Any:
    """Return a tensor that autograd can save: a copy of one made in inference mode, anything else as it is."""
    return values.clone() if isinstance(values, Tensor) and values.is_inference() else values
