"""Scores of PiNet's paper for a trained network on ToyShapes, from its maps and answers.

The paper takes the coefficients pi, divides by their maximum over the whole test set (pi~), and chooses the threshold
on the test set too. In addition to these there are honest scores, with threshold and maximum from validation pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.toyshapes.generator import ToyShapes
from xai_align.evaluation.detection_rates import (
    DETECTION_THRESHOLDS,
    detection_scale,
    detection_score,
    true_abstraction_rate,
    true_detection_rate,
)

#: Number of pictures in a batch.
CHUNK = 100
#: Function of pictures ``[N, 1, H, W]`` that returns logits ``[N]`` and maps ``[N, H, W]``.
Look = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Scores:
    """One network's scores on the test set.

    Attributes:
        accuracy: accuracy of the sign of the logit.
        naive: TDR x TAR of soft values, relu(pi~).
        optimal: TDR x TAR of 1[pi~ > t], t chosen on the test set, as published.
        tdr, tar: its two factors.
        threshold: t.
        width: range of the thresholds whose score is above 0.9, in decades; 0 if there is none.
        honest: TDR x TAR of 1[pi > t], t chosen on validation pictures.
        iou: mean intersection over union in pictures with a triangle, of 1[pi~ > 0.5].
        recursive_image: accuracy on pictures times |pi| / max of the picture.
        recursive_published: accuracy on pictures times |pi| / max over the test set.
        maximum: over the test set, before it is divided by.
    """

    accuracy: float
    naive: float
    optimal: float
    tdr: float
    tar: float
    threshold: float
    width: float
    honest: float
    iou: float
    recursive_image: float
    recursive_published: float
    maximum: float


def scores(look: Look, test: ToyShapes, validation: ToyShapes) -> Scores:
    """Return all scores; the network runs three times on each test picture."""
    logits, maps = answers(look, test.images)
    scale = detection_scale(maps)
    curve = score_at_thresholds(maps / scale, test.masks)
    t = DETECTION_THRESHOLDS[curve.index(max(curve))]
    at = {"scale": scale, "threshold": t}
    of_image, published = (
        accuracy(answers(look, signal)[0], test)
        for signal in (test.images * per_image(maps)[:, None], test.images * (maps.abs() / scale)[:, None])
    )
    return Scores(
        accuracy=accuracy(logits, test),
        naive=detection_score(maps, test.masks, scale=scale),
        optimal=max(curve),
        tdr=float(true_detection_rate(maps, test.masks, **at).nanmean()),
        tar=float(true_abstraction_rate(maps, test.masks, **at).nanmean()),
        threshold=t,
        width=width_above(0.9, curve),
        honest=honest_score(maps, test, *answers(look, validation.images)[1:], validation),
        iou=intersection_over_union(maps / scale > 0.5, test.masks),
        recursive_image=of_image,
        recursive_published=published,
        maximum=scale,
    )


@torch.no_grad()
def answers(look: Look, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits ``[N]`` and maps ``[N, H, W]``."""
    logits, maps = zip(*(look(chunk) for chunk in images.split(CHUNK)), strict=True)
    return torch.cat(logits), torch.cat(maps)


def accuracy(logits: Tensor, shapes: ToyShapes) -> float:
    return float(((logits > 0) == (shapes.labels > 0)).double().mean())


def per_image(maps: Tensor) -> Tensor:
    """Return ``|pi|`` over its maximum in the picture, which depends on no other picture."""
    return maps.abs() / maps.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def honest_score(maps: Tensor, test: ToyShapes, validation_maps: Tensor, validation: ToyShapes) -> float:
    """Return the score with the threshold from validation pictures; only its product with the scale matters."""
    scale = detection_scale(validation_maps)
    curve = score_at_thresholds(validation_maps / scale, validation.masks)
    t = DETECTION_THRESHOLDS[curve.index(max(curve))]
    return detection_score(maps, test.masks, scale=scale, threshold=t)


def score_at_thresholds(relative: Tensor, masks: Tensor) -> list[float]:
    """Return ``detection_score`` of maps ``pi~`` at each of ``DETECTION_THRESHOLDS``, with one pass over the pixels."""
    t = torch.tensor(DETECTION_THRESHOLDS, dtype=torch.float64)
    exceeded = torch.bucketize(relative.double(), t)  # number of thresholds below a pixel's value
    tdr = share_above(exceeded, masks)
    tar = 1 - share_above(exceeded, ~masks)
    return (tdr.nanmean(0) * tar.nanmean(0)).tolist()


def share_above(exceeded: Tensor, where: Tensor) -> Tensor:
    """Return the share of the pixels ``where`` above each threshold, ``[N, T]``; NaN where there are none."""
    steps = len(DETECTION_THRESHOLDS) + 1
    picture = torch.arange(len(exceeded))[:, None, None].expand_as(exceeded)
    counts = torch.bincount((picture * steps + exceeded)[where], minlength=len(exceeded) * steps)
    at_least = counts.reshape(-1, steps).flip(1).cumsum(1).flip(1)  # above at least this number of thresholds
    return at_least[:, 1:].double() / where.sum((1, 2))[:, None]


def intersection_over_union(found: Tensor, masks: Tensor) -> float:
    """Return the mean over the pictures that have a mask; both are bool ``[N, H, W]``."""
    some = masks.any(2).any(1)
    shared, either = (found & masks)[some].sum((1, 2)), (found | masks)[some].sum((1, 2))
    return float((shared / either).double().mean())


def width_above(least: float, curve: list[float]) -> float:
    """Return the paper's ease of fine-tuning: decades between the first and the last threshold that score more."""
    above = [i for i, value in enumerate(curve) if value > least]
    return 4 / (len(curve) - 1) * (above[-1] - above[0]) if above else 0.0
