"""Metrics that use the map as a soft mask: average drop and increase (Grad-CAM++, Chattopadhay et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xai_align.perturbation.curve import perturbation_curve
from xai_align.perturbation.network import Activation
from xai_align.perturbation.questioned import questioned, questions_of
from xai_align.perturbation.ranking import over_channels, position_scores

__all__ = ["average_drop", "average_increase", "confidence_under_mask"]


def confidence_under_mask(
    forward_func: Callable[..., Tensor], inputs: Tensor, attributions: Tensor, *, target: Any = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Return ``(p(x), p(M * x))``, ``[N]`` each, with the map ``M`` scaled to 0 … 1 in each example.

    Unlike curves, these depend on the map's values and not only on their order. Negative values are set to 0,
    and the map is divided by its maximum. For a map without positive values, ``p(M * x)`` is NaN.

    Args:
        forward_func: gives logits ``[N, K]``.
        inputs: as in :func:`~xai_align.perturbation.perturbation_curve`.
        attributions: in the inputs' shape, or one score for each position.
        target: a class, a question, one for each example, or None for the predicted class.
        **options: options of :func:`~xai_align.perturbation.perturbation_curve`.
    """
    scores = position_scores(attributions, inputs).to(inputs.device).clamp(min=0)
    top = scores.flatten(1).amax(1)
    mask = scores / top.reshape(-1, *[1] * (scores.dim() - 1))
    shown = inputs * over_channels(mask, inputs.dim()).to(inputs).nan_to_num(0.0)
    # a curve with two fractions: at 1, the whole input is replaced by the masked one
    curve = perturbation_curve(
        forward_func, inputs, _any_order(scores), fractions=(0.0, 1.0), baselines=shown.detach(), **options
    )
    questions = questions_of(curve, target)
    p = questioned(curve.masked, questions, probabilities=curve.has_probabilities)
    return p[:, 0], torch.where(top > 0, p[:, 1], torch.nan)


def average_drop(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    activation: Activation = "auto",
    internal_batch_size: int | None = None,
    **options: Any,
) -> Tensor:
    """Compute ``max(0, p(x) - p(M * x)) / p(x)``; ``[N]``, lower is better.

    Arguments as in :func:`confidence_under_mask`.

    Example::

        average_drop(model, images, images.abs(), target=281)  # [2], in [0, 1]
    """
    options |= {"activation": activation, "internal_batch_size": internal_batch_size}
    clean, masked = confidence_under_mask(forward_func, inputs, attributions, target=target, **options)
    return (clean - masked).clamp(min=0) / clean


def average_increase(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    target: Any = None,
    activation: Activation = "auto",
    internal_batch_size: int | None = None,
    **options: Any,
) -> Tensor:
    """Return 1 where ``p(M * x) > p(x)``, else 0; ``[N]``, higher is better.

    Arguments as in :func:`confidence_under_mask`.

    Example::

        average_increase(model, images, images.abs(), target=281).mean()  # share of the images where p rises
    """
    options |= {"activation": activation, "internal_batch_size": internal_batch_size}
    clean, masked = confidence_under_mask(forward_func, inputs, attributions, target=target, **options)
    return torch.where(masked.isnan(), torch.nan, (masked > clean).double())


def _any_order(scores: Tensor) -> Tensor:
    """Return scores without ties: at fractions 0 and 1 the order doesn't matter."""
    return (
        torch.arange(scores[0].numel(), device=scores.device, dtype=torch.float64)
        .expand(len(scores), -1)
        .reshape_as(scores)
    )
