"""The fill "drop": removed patches are left out of a transformer's tokens, so that there is nothing to fill."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DroppedPatches:
    """Fill that leaves removed patches out of the tokens of a network.

    The network is prepared by :mod:`~xai_align.perturbation.dropping_network`.
    """

    def impute(self, inputs: Tensor, removed: Tensor) -> Tensor:
        """Return inputs ``[M, C, H, W]`` with the visibility as an additional channel."""
        return torch.cat([inputs, (~removed).to(inputs)], 1)
