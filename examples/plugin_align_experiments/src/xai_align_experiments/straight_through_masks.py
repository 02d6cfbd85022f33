"""Experimental: binary masks that can be trained.

    M = 1[ logit + g > 0 ],  g logistic noise;  backward as sigmoid((logit + g) / T)     straight-through Gumbel

A technique of AIM (Alshami et al., ICCV 2025, arXiv 2508.11502), which masks a network's own features. On ALIGN's
masker it is our reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xai_align.align import MaskerPass, check_number


@dataclass(frozen=True, kw_only=True)
class StraightThroughMasks:
    """Experimental: masks of zeros and ones, with the gradient of soft ones.

    Attributes:
        temperature: T; the lower it is, the closer the soft masks whose gradient is used are to zeros and ones.

    Raises:
        ValueError: the temperature is not above zero.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, least=1e-3)

    def __call__(self, forward: MaskerPass) -> Tensor:
        """Return the masks ``[N, 1, H, W]``, each value 0 or 1."""
        logits = forward.soft_logits
        # the difference of two Gumbel draws is logistic: the winner of "on" and "off" is a sign
        u = forward.draws.uniform("binary masks", *logits.shape[1:]).to(logits).clamp(1e-6, 1 - 1e-6)
        soft = ((logits + u.logit()) / self.temperature).sigmoid()
        binary: Tensor = _StraightThrough.apply(soft)
        return binary


class _StraightThrough(torch.autograd.Function):
    """A threshold at one half, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor) -> Tensor:
        return (soft > 0.5).to(soft)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]
