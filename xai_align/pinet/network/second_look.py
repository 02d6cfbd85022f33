"""Output of one forward pass of a PiNet: the prediction and the terms it is computed from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from xai_align._tools.full_precision import full_precision
from xai_align._tools.sum_keeping import collect_keeping_sum, resize_keeping_sum


@dataclass(frozen=True, kw_only=True)
class SecondLook:
    """Logits with their terms: ``logit_k = a_k + s_k * sum over c, h, w of pi_kchw * z_kchw``.

    Attributes:
        logits: ``[N, K]``.
        coefficients: the detection map ``pi``, ``[N, K or 1, C or 1, h, w]``; 1 where classes or channels share a map.
        z: the readable features, ``[N, K or 1, C, h, w]``.
        scale: ``s``, ``[K]``, non-negative; includes ``1 / (h * w)`` where the sum is a mean over positions.
        bias: ``a``, ``[K]``, the logits where nothing is detected.

    Example::

        pinet = conv_pinet(5, in_channels=3, width=8).eval()
        look = pinet.explain(images)
        look.coefficient_maps  # [2, 5, 32, 32]
        look.maps.sum((2, 3)) + look.bias  # [2, 5], equals look.logits
    """

    logits: Tensor
    coefficients: Tensor = field(repr=False)
    z: Tensor = field(repr=False)
    scale: Tensor
    bias: Tensor

    @property
    def contributions(self) -> Tensor:
        """``[N, K, C, h, w]``: ``s * pi * z``, the contribution of each feature to each logit."""
        return self.scale[:, None, None, None] * self.coefficients * self.z

    @property
    def maps(self) -> Tensor:
        """``[N, K, h, w]``: the contributions, summed over channels."""
        return self.contributions.sum(2)

    @property
    def coefficient_maps(self) -> Tensor:
        """``[N, K, h, w]``: the mean of ``pi`` over channels, the map of the paper's localisation scores."""
        return self.coefficients.mean(2).expand(-1, self.logits.shape[1], -1, -1)

    def contributions_to(self, weights: Tensor) -> Tensor:
        """Return ``[N, C, h, w]``, each feature's contribution to ``sum_k w_k logit_k``, for weights ``[N, K]``.

        Equals the weighted sum of ``contributions`` over classes, without computing all of them.
        """
        w = weights * self.scale
        with full_precision(w):
            if self.coefficients.shape[1] == 1:
                return self.coefficients[:, 0] * self._z_over_classes(w)
            if self.z.shape[1] == 1:
                return over_classes(w, self.coefficients) * self.z[:, 0]
            return over_classes(w, self.coefficients * self.z)

    def coefficients_to(self, weights: Tensor) -> Tensor:
        """Return ``[N, C or 1, h, w]``: ``sum_k w_k pi_k``, or ``pi`` itself where all classes share it."""
        if self.coefficients.shape[1] == 1:
            return self.coefficients[:, 0]
        with full_precision(weights):
            return over_classes(weights, self.coefficients)

    def _z_over_classes(self, weights: Tensor) -> Tensor:
        return over_classes(weights, self.z)


class EvidenceLook(SecondLook):
    """Second look at class evidence, whose coarse ``z`` is spread over the map only on access.

    Args:
        evidence: ``[N, K, h', w']``, on its own grid.
        others: the other fields of :class:`SecondLook`.
    """

    evidence: Tensor

    def __init__(self, *, evidence: Tensor, **others: Tensor) -> None:
        for name, value in {"evidence": evidence, **others}.items():
            object.__setattr__(self, name, value)

    @cached_property
    def z(self) -> Tensor:
        """``[N, K, 1, h, w]``: the evidence at every position, with its mean preserved."""
        with full_precision(self.evidence):
            return spread(self.evidence, self.coefficients.shape[-2:]).unsqueeze(2)

    def _z_over_classes(self, weights: Tensor) -> Tensor:
        summed = torch.einsum("nk,nkhw->nhw", weights, self.evidence)
        return spread(summed, self.coefficients.shape[-2:]).unsqueeze(1)


def over_classes(weights: Tensor, x: Tensor) -> Tensor:
    """Return ``sum_k w_k x_k``, ``[N, C, h, w]``, of ``[N, K]`` and ``[N, K or 1, C, h, w]``."""
    if x.shape[1] == 1:
        return weights.sum(1)[:, None, None, None] * x[:, 0]
    return torch.einsum("nk,nkchw->nchw", weights, x)


def spread(evidence: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Resize ``[..., h', w']`` to ``[..., h, w]`` smoothly, preserving the mean."""
    return resize_keeping_sum(evidence, size, "smooth") * _cells_ratio(size, evidence.shape[-2:])


def spread_transposed(coefficients: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
    """Apply the transpose of :func:`spread`: ``sum(pi * spread(e)) == sum(spread_transposed(pi) * e)``."""
    collected = collect_keeping_sum(coefficients, grid, "smooth")
    return collected * _cells_ratio(coefficients.shape[-2:], grid)


def _cells_ratio(fine: tuple[int, int] | torch.Size, coarse: tuple[int, int] | torch.Size) -> float:
    return fine[0] * fine[1] / (coarse[0] * coarse[1])
