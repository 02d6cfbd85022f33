"""Loss of the masker: the kept part suffices for the class, the rest does not, and little is kept.

    keep = x * M            drop = x * (1 - M)
    dist = f_y(keep) - f_y(drop)
    loss = (dist - 1)^2 + lambda1 * |M|_1 + lambda2 * jumps(M)

From the published description of ALIGN (Hong et al., arXiv 2511.06944). Our interpretation, where it is not
specified: ``f_y`` is a probability (so 1 is the best distance); the L1 norm and the jumps are means over pixels,
so that their weights are independent of the image size; jumps are absolute differences of neighbours. With K
classes and a confident classifier the distance term is ``1 / K^2`` for a mask of ones and ``(2 - 1/K)^2`` for one
of zeros: without ``lambda1`` all ones is nearly optimal, above about 3.6 all zeros is better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from xai_align._tools.did_you_mean import did_you_mean
from xai_align._tools.full_precision import full_precision
from xai_align._tools.model_state import check_evaluation_mode, frozen_parameters
from xai_align.align.captured_pass import check_logits
from xai_align.align.classes import check_classes
from xai_align.align.saliency import at_least_float32
from xai_align.perturbation.fills import FILLS, Imputer, by_name

__all__ = [
    "Baseline",
    "MaskerLoss",
    "another_image",
    "distinction",
    "keep_and_drop",
    "masker_loss",
    "probabilities",
    "smoothness_of",
    "sparsity_of",
]

#: Values of removed pixels: a number or a tensor in the units of the images, a name such as "blur", or a
#: function of the images.
Baseline: TypeAlias = float | str | Tensor | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MaskerLoss:
    """Loss of each image and its parts, all ``[N]``, float32.

    Attributes:
        total: the weighted sum.
        distinction: ``(dist - 1)^2``.
        sparsity: the mean of the mask.
        smoothness: the mask's mean absolute difference between neighbours.
        p_keep: ``f_y`` of the kept part.
        p_drop: ``f_y`` of the dropped part.
    """

    total: Tensor
    distinction: Tensor
    sparsity: Tensor
    smoothness: Tensor
    p_keep: Tensor
    p_drop: Tensor

    def parts(self) -> dict[str, Tensor]:
        """Return the means over the batch by name, detached, on their device."""
        return {field.name: getattr(self, field.name).detach().mean() for field in fields(self)}


def masker_loss(
    classifier: nn.Module,
    images: Tensor,
    masks: Tensor,
    target: Tensor,
    *,
    sparsity: float = 2.0,
    smoothness: float = 0.1,
    baseline: Baseline = 0.0,
) -> MaskerLoss:
    """Compute the masker's loss, with one forward pass of ``2 N`` images.

    The gradient flows to the masks. The classifier's parameters get none, and the classifier is not changed.

    Args:
        classifier: in eval mode, gives logits ``[2 N, K]``.
        images: ``[N, C, H, W]``, as the classifier takes them.
        masks: ``[N, 1, H, W]`` in [0, 1].
        target: ``[N]``, int64: the class of each image.
        sparsity: ``lambda1``.
        smoothness: ``lambda2``.
        baseline: see :func:`keep_and_drop`.

    Raises:
        TypeError, ValueError: shapes, labels or the baseline don't match, the classifier is in train mode, or its
            output is not ``[2 N, K]``.

    Example::

        masker = Masker()
        loss = masker_loss(model, images, masker(images), labels)
        loss.total.mean().backward()  # gradients of the masker only
    """
    p_keep, p_drop = probabilities(classifier, *keep_and_drop(images, masks, baseline), target)
    distance, area, jumps = distinction(p_keep, p_drop), sparsity_of(masks), smoothness_of(masks)
    return MaskerLoss(distance + sparsity * area + smoothness * jumps, distance, area, jumps, p_keep, p_drop)


def keep_and_drop(images: Tensor, masks: Tensor, baseline: Baseline = 0.0) -> tuple[Tensor, Tensor]:
    """Return the kept and the dropped part of each image: ``x M + b (1 - M)`` and ``x (1 - M) + b M``.

    Args:
        images: ``[N, C, H, W]``.
        masks: ``[N, 1, H, W]``, the same for all channels.
        baseline: ``b``. The default, zero, gives the product of the published description: on normalised images the
            data set's mean colour, on images in [0, 1] black. A number; a tensor that can be expanded to the
            images; "another_image" (see :func:`another_image`), "blur", "mean", "noise" or "uniform" (see
            :mod:`xai_align.perturbation.fills`); or a function of the images.

    Raises:
        TypeError: the baseline has an unsupported type.
        ValueError: shapes don't match.
    """
    if masks.dim() != 4 or tuple(masks.shape) != (len(images), 1, *images.shape[2:]):
        raise ValueError(
            f"the masks have shape {list(masks.shape)} beside images {list(images.shape)}; "
            f"give {[len(images), 1, *images.shape[2:]]}"
        )
    masks = masks.to(images.dtype)
    keep, drop = images * masks, images * (1 - masks)
    b = _values(baseline, images)
    return (keep, drop) if b is None else (keep + b * (1 - masks), drop + b * masks)


def another_image(images: Tensor) -> Tensor:
    """Return for each image the one before it in the batch, as a baseline with other content; ours.

    A network that recognises low-contrast images (those trained on photographs do) classifies ``x M`` and ``x (1 - M)``
    alike for every constant mask ``M``, so the masker gets no signal at the start. Blended with another image, a
    low-contrast one is not recognised. For training only: the result depends on the rest of the batch. A batch of one
    gets zeros.
    """
    return images.roll(1, 0) if len(images) > 1 else torch.zeros_like(images)


def probabilities(classifier: nn.Module, keep: Tensor, drop: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``f_y(keep)`` and ``f_y(drop)``, ``[N]``, float32, from one forward pass without gradients to parameters.

    Raises:
        TypeError, ValueError: as :func:`masker_loss`.
    """
    check_evaluation_mode(classifier)
    with frozen_parameters(classifier):
        logits = classifier(torch.cat([keep, drop]))
    check_logits(logits, 2 * len(keep))
    check_classes(target, logits[: len(keep)])
    with full_precision(logits):
        p = at_least_float32(logits).softmax(1)
        twice = target.to(p.device).repeat(2)
        p_keep, p_drop = p.gather(1, twice[:, None])[:, 0].chunk(2)
    return p_keep, p_drop


def distinction(p_keep: Tensor, p_drop: Tensor) -> Tensor:
    """Return ``(f_y(keep) - f_y(drop) - 1)^2``, ``[N]``."""
    return (p_keep - p_drop - 1).square()


def sparsity_of(masks: Tensor) -> Tensor:
    """Return ``|M|_1`` over the number of pixels, ``[N]``: the share of the image that a mask keeps."""
    return at_least_float32(masks).abs().mean((1, 2, 3))


def smoothness_of(masks: Tensor) -> Tensor:
    """Return the total variation, ``[N]``: mean absolute difference of neighbours in a column, plus that in a row.

    A mask with a single row or column has none in that direction.
    """
    masks = at_least_float32(masks)
    total = masks.new_zeros(len(masks))
    for axis in (2, 3):
        if masks.shape[axis] > 1:
            total = total + masks.diff(dim=axis).abs().mean((1, 2, 3))
    return total


#: Names of baselines besides those of the fills.
BASELINES: dict[str, Callable[[Tensor], Tensor]] = {"another_image": another_image}


def _values(baseline: Any, images: Tensor) -> Tensor | float | None:
    """Return the values that replace removed pixels; None for zeros."""
    if isinstance(baseline, str):
        known = {**FILLS, **BASELINES}
        if baseline not in known:
            raise ValueError(
                f"there is no baseline '{baseline}'{did_you_mean(baseline, known)} Known: {', '.join(known)}"
            )
        baseline = BASELINES.get(baseline) or by_name(baseline)
    if isinstance(baseline, int | float) and not isinstance(baseline, bool):
        return None if baseline == 0 else float(baseline)
    if isinstance(baseline, Imputer) or not (isinstance(baseline, Tensor) or callable(baseline)):
        raise TypeError(
            f"a baseline of type {type(baseline).__name__} can't be blended by a soft mask; "
            "give a number, a tensor, 'blur', 'mean', or a function of the images"
        )
    if isinstance(baseline, Tensor):
        values: Any = baseline
    else:
        with torch.no_grad():
            values = baseline(images.clone())  # it may write into them
    if not isinstance(values, Tensor):
        raise ValueError(f"the baseline gave a {type(values).__name__}; a function of the images gives a tensor")
    try:
        return values.to(images).expand_as(images)
    except RuntimeError:
        raise ValueError(
            f"the baseline has shape {list(values.shape)}; give one that can be expanded to {list(images.shape)}"
        ) from None
