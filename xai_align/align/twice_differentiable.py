"""Twice differentiable attention: the fused kernels have a first derivative only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Compute ``scaled_dot_product_attention`` with plain operations inside the block: slower, and with more memory.

    A loss on a second-order CAM, or on the gradient of a logit, needs second derivatives.
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield
