"""Attention that can be differentiated twice: the fused kernels have a first derivative only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Inside, ``scaled_dot_product_attention`` is computed by plain operations, which is slower and takes more memory.

    A loss on a second-order CAM, or on the gradient of a logit, needs the derivative of a derivative.
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield
