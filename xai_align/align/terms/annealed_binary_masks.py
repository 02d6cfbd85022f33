"""Experimental: binary masks whose area shrinks while training goes on.

    M = 1[ logit + g > 0 ],  g logistic noise;  backward as sigmoid((logit + g) / T)     straight-through Gumbel
    (mean M - tau)^2,  tau from 1.0 down to 0.35, linearly                                annealed area

Two devices of AIM (Alshami et al., ICCV 2025, arXiv 2508.11502), which masks a network's own features, here on
ALIGN's masker: so what they bring there needn't show here. The weight 6 and the last areas .35 and .25 are
published; taking the area image by image is our reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xai_align.align.guides import OnAnotherGuide
from xai_align.align.masker_loss import sparsity_of
from xai_align.align.terms.masker_terms import MaskerTerm
from xai_align.align.terms.term_options import check_number
from xai_align.align.views.batch import Everyone, TrainingBatch
from xai_align.align.views.masker_view import MaskerView


@dataclass(kw_only=True)
class AnnealedArea(MaskerTerm):
    """Experimental: ``(mean M - tau)^2``; masks are as large as the time allows.

    Attributes:
        first: tau at the beginning.
        last: tau at the end.
        until: the share of the fit after which tau is at its end.

    Raises:
        ValueError: options out of range.
    """

    name: ClassVar[str] = "annealed_area"

    weight: float = 6.0
    first: float = 1.0
    last: float = 0.35
    until: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("the first area", self.first, most=1.0)
        check_number("the last area", self.last, most=1.0)
        check_number("until", self.until, least=1e-6, most=1.0)

    def tau(self, progress: float) -> float:
        """The area that is wanted when this share of the fit is done."""
        done = min(max(progress / self.until, 0.0), 1.0)
        return self.first + done * (self.last - self.first)

    def values(self, view: MaskerView) -> Tensor:
        """``[N]``."""
        return (sparsity_of(view.masks) - self.tau(view.progress)).square()


@dataclass(frozen=True, kw_only=True)
class StraightThroughMasks:
    """Experimental: masks of zeros and ones, with the gradient of soft ones.

    Attributes:
        temperature: T; the lower, the nearer to zeros and ones are the soft masks whose gradient is taken.

    Raises:
        ValueError: the temperature is not above zero.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, least=1e-3)

    def __call__(self, view: MaskerView) -> Tensor:
        """``[N, 1, H, W]``, each value 0 or 1."""
        logits = view.soft_logits
        # the difference of two Gumbel draws is logistic: the winner of "on" and "off" is a sign
        u = view.draws.uniform("binary masks", *logits.shape[1:]).to(logits).clamp(1e-6, 1 - 1e-6)
        soft = ((logits + u.logit()) / self.temperature).sigmoid()
        binary: Tensor = _StraightThrough.apply(soft)
        return binary


class _StraightThrough(torch.autograd.Function):
    """A threshold at one half, and backward as if it were not there."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor) -> Tensor:
        return (soft > 0.5).to(soft)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


@dataclass(frozen=True)
class Binarised(OnAnotherGuide):
    """Experimental: a guide's masks as zeros and ones, as they are used when there is no noise."""

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor | None:
        """1 above one half, else 0; unknown stays unknown."""
        mask = self.of(batch, masker, generator, everyone)
        return None if mask is None else torch.where(mask.isnan(), mask, (mask > 0.5).to(mask))
