"""Saliency guided training: the least salient pixels must not change the prediction.

    x~ = x with the share of the pixels replaced whose gradient of the label's logit is smallest
    KL(softmax f(x) || softmax f(x~))

Source: Ismail, Corrada Bravo & Feizi, NeurIPS 2021, and the authors' code. The gradient is a mean over channels,
signed as there, taken in eval mode and not differentiated again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xai_align._tools.checks import check_choice, check_number
from xai_align._tools.full_precision import full_precision
from xai_align.align.captured_pass import check_logits
from xai_align.align.forward_passes.classifier_pass import ClassifierPass
from xai_align.align.forward_passes.side_pass import batch_statistics_preserved, evaluation_pass
from xai_align.align.saliency import at_least_float32

#: Values of replaced pixels: uniform noise between the image's darkest and brightest value, or the mean.
Fill = Literal["noise", "mean"]
#: Smallest gradients: the most negative ones, or those nearest to zero.
Smallest = Literal["signed", "absolute"]


@dataclass(kw_only=True)
class SaliencyGuided:
    """Term that is the divergence between the prediction and the one without the least salient pixels.

    A step makes three forward passes: of the images, of the images in eval mode for the gradient, and of the changed
    images.

    Attributes:
        weight: of the term.
        share: share of pixels that are replaced.
        fill: their new values: noise, drawn independently for each channel, or each channel's mean.
        smallest: order by the signed gradient, as in the authors' code, or by its absolute value.

    Raises:
        ValueError: options out of range.
    """

    name: ClassVar[str] = "saliency_guidance"
    needs_mask_source: ClassVar[bool] = False

    weight: float = 1.0
    share: float = 0.5
    fill: Fill = "noise"
    smallest: Smallest = "signed"

    def __post_init__(self) -> None:
        check_number("the weight of saliency guidance", self.weight)
        check_number("share", self.share, most=1.0)
        check_choice("fill", self.fill, ("noise", "mean"))
        check_choice("smallest", self.smallest, ("signed", "absolute"))

    def __call__(self, forward: ClassifierPass) -> Tensor:
        """Return the divergence of each image, ``[N]``. Gradients flow through both predictions."""
        masked = self.without_least_salient(forward)
        with batch_statistics_preserved(forward.classifier):
            logits = forward.classifier(masked)
        check_logits(logits, len(forward.batch))
        changed = F.log_softmax(at_least_float32(logits), -1)
        whole = F.log_softmax(forward.logits, -1)
        return (whole.exp() * (whole - changed)).sum(-1)

    def without_least_salient(self, forward: ClassifierPass) -> Tensor:
        """Return the images with their least salient pixels replaced, ``[N, C, H, W]``."""
        images = forward.batch.images.detach()
        gradient = pixel_gradient(forward.classifier, images, forward.batch.labels)
        gone = least_salient(gradient if self.smallest == "signed" else gradient.abs(), self.share)
        if self.fill == "mean":
            filler = images.mean((2, 3), keepdim=True)
        else:
            darkest, brightest = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
            noise = forward.draws.uniform("saliency guidance", *images.shape[1:]).to(images)
            filler = darkest + noise * (brightest - darkest)
        return torch.where(gone, filler, images)


def pixel_gradient(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of each label's logit in eval mode, averaged over channels, detached, ``[N, 1, H, W]``."""
    with evaluation_pass(classifier):
        pixels = images.detach().requires_grad_()
        logits = classifier(pixels)
        check_logits(logits, len(images))
        chosen = torch.zeros_like(logits).scatter_(1, labels[:, None], 1)
        with full_precision(logits):
            (gradient,) = torch.autograd.grad(logits, pixels, chosen)
    return gradient.mean(1, keepdim=True)


def least_salient(saliency: Tensor, share: float) -> Tensor:
    """Return the share of pixels with the smallest values, ``[N, 1, H, W]``, bool; ties go to the first."""
    flat = saliency.flatten(1)
    count = int(share * flat.shape[1] + 1e-9)
    order = flat.sort(dim=1, stable=True).indices[:, :count]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True).reshape(saliency.shape)
