"""Cross-entropy between a classifier's saliency and a mask: ALIGN's alignment loss.

    BCE(Phi, M) = mean over cells of  - M log Phi - (1 - M) log(1 - Phi)

Soft masks ``M`` are targets and get no gradient. The minimum of the BCE is the mask's entropy; the rest is the
divergence ``KL(M || Phi)``, reported as ``excess``, which measures progress. From the published description of
ALIGN (Hong et al., arXiv 2511.06944); the common resolution, clamping and balance are our choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align._tools.checks import check_choice
from xai_align._tools.full_precision import full_precision
from xai_align.align.saliency import at_least_float32

__all__ = ["AlignmentLoss", "Balance", "Meet", "alignment_loss", "at_one_resolution", "weighted_mean"]

#: "mask_down": average the mask down to the CAM's cells. "cam_up": upsample the CAM bilinearly to the mask's pixels.
Meet = Literal["mask_down", "cam_up"]
#: "area": all cells have equal weight, so a small object has little. "even": inside and outside have half each.
Balance = Literal["area", "even"]


@dataclass(frozen=True)
class AlignmentLoss:
    """Loss of each image and its parts, all ``[N]``, float32.

    Attributes:
        total: the loss to minimise: the BCE, or with even balance the mean of ``inside`` and ``outside``.
        inside: ``- log Phi``, averaged with weights ``M``: high if evidence is missing on the object.
        outside: ``- log(1 - Phi)``, averaged with weights ``1 - M``: high if there is evidence outside it.
        excess: BCE minus the mask's entropy; about 0 if saliency and mask are equal.
    """

    total: Tensor
    inside: Tensor
    outside: Tensor
    excess: Tensor


def alignment_loss(
    cam: Tensor,
    mask: Tensor,
    *,
    meet: Meet = "mask_down",
    eps: float = 1e-3,
    balance: Balance = "area",
) -> AlignmentLoss:
    """Compute the cross-entropy of a saliency map against a soft mask; the gradient flows to the map.

    Args:
        cam: ``[N, 1, h, w]`` in [0, 1], see :func:`~xai_align.align.saliency.normalised`.
        mask: ``[N, 1, H, W]`` in [0, 1]. NaN where unknown: such pixels are ignored, and an image without any known
            pixel has a loss of zero.
        meet: the common resolution, see :data:`Meet`. A cell of the mask averages the known pixels that it covers.
        eps: the map is clamped to ``[eps, 1 - eps]``. A normalised map has exact zeros and ones, where the gradient
            of the BCE is unbounded; clamped, no cell's gradient exceeds ``1 / eps`` over the number of cells.
        balance: "area" as published; "even" is ours.

    Raises:
        ValueError: shapes don't match, an option is unknown, or (checked on the CPU only, to avoid a device
            synchronisation) a map is not in [0, 1].

    Example::

        cam = normalised(grad_cam(model, images, labels, layer="conv2"))  # [N, 1, h, w]
        loss = alignment_loss(cam, Masker()(images))
        loss.total.mean().backward()
    """
    check_choice("meet", meet, ("mask_down", "cam_up"))
    check_choice("balance", balance, ("area", "even"))
    _check(cam, mask, eps)
    with full_precision(cam):
        phi, m, known = at_one_resolution(at_least_float32(cam), at_least_float32(mask.detach()).to(cam.device), meet)
        phi = phi.clamp(eps, 1 - eps)
        inside = weighted_mean(-phi.log(), m * known)
        outside = weighted_mean(-torch.log1p(-phi), (1 - m) * known)
        area = weighted_mean(m, known)
        bce = area * inside + (1 - area) * outside
        entropy = weighted_mean(-torch.xlogy(m, m) - torch.xlogy(1 - m, 1 - m), known)
    total = bce if balance == "area" else (inside + outside) / 2
    return AlignmentLoss(total, inside, outside, bce - entropy)


def at_one_resolution(cam: Tensor, mask: Tensor, meet: Meet) -> tuple[Tensor, Tensor, Tensor]:
    """Return saliency, mask and the known share of each cell, at one resolution."""
    known = (~mask.isnan()).to(mask)
    mask = mask.nan_to_num(0.0)
    if meet == "cam_up":
        return F.interpolate(cam, mask.shape[-2:], mode="bilinear", align_corners=False), mask, known
    size = (cam.shape[-2], cam.shape[-1])
    marked, known = F.adaptive_avg_pool2d(mask, size), F.adaptive_avg_pool2d(known, size)
    return cam, (marked / known.where(known > 0, 1)).clamp(0, 1), known


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean over each image's cells, ``[N]``; zero if all weights are zero."""
    total = weights.sum((1, 2, 3))
    return (values * weights).sum((1, 2, 3)) / total.where(total > 0, 1)


def _check(cam: Tensor, mask: Tensor, eps: float) -> None:
    if cam.dim() != 4 or mask.dim() != 4 or cam.shape[:2] != mask.shape[:2] or cam.shape[1] != 1:
        raise ValueError(
            f"the CAM has shape {list(cam.shape)} and the mask {list(mask.shape)}; give [N, 1, h, w] and [N, 1, H, W]"
        )
    if not 0 < eps < 0.5:
        raise ValueError(f"eps is {eps!r}; give a number between 0 and 0.5, neither of them")
    for name, values, what in (
        ("CAM", cam, "give normalised(cam)"),
        ("mask", mask, "give probabilities, such as a Masker's forward"),
    ):
        if values.device.type == "cpu" and ((values < 0) | (values > 1)).any():
            raise ValueError(f"the {name} has values outside [0, 1]; {what}")
