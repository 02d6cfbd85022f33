"""DRE's regulariser, also used by ALIGN: CAMs should mix as their images do. For a whole batch at once.

Each image is mixed with a partner of the same class, with its own lambda ~ Beta(alpha, alpha):

    x_mix = lambda x + (1 - lambda) x'
    consistency    = mean | a(x_mix) - (lambda a(x) + (1 - lambda) a(x')) |        a: the CAM of the class
    sparsity       = (mean a(x) + mean a(x_mix)) / 2
    classification = cross-entropy of f(x_mix) against the class

DRE's published code loops over classes and divides the sum of class means by the number of classes. Weighting
each image by ``N / (K n_c)`` gives the same as a plain mean over the batch, with two forward passes in all.

Source: DRE (CVPR 2023; its published code) and the published description of ALIGN (Hong et al., arXiv 2511.06944).
Differences: sparsity is the plain mean (the code takes the mean over columns of a column's maximum), a
constant CAM gives no NaN, and negative evidence is clipped (Grad-CAM's ReLU) before a CAM is normalised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xai_align._tools.full_precision import full_precision
from xai_align.align.captured_pass import cam_space, capture
from xai_align.align.forward_passes.training_batch import class_balance
from xai_align.align.saliency import Normalise, Order, at_least_float32, saliency_at
from xai_align.features.resolve_layer import Layer

__all__ = [
    "MixupLoss",
    "inconsistency",
    "mixed",
    "mixing_shares",
    "mixup_regulariser",
    "same_class_partners",
]


@dataclass(frozen=True)
class MixupLoss:
    """Loss of each image and its parts, all ``[N]``, float32, weighted by the size of its class.

    Attributes:
        total: the weighted sum; its mean over the batch is DRE's mean over classes.
        consistency: distance between the CAM of the mixture and the mixture of the CAMs.
        sparsity: mean value of the CAMs.
        classification: cross-entropy of the mixture.
        partners: ``[N]``, int64: the index of each image's partner.
        shares: ``[N]``: lambda, the share of the image itself.
    """

    total: Tensor
    consistency: Tensor
    sparsity: Tensor
    classification: Tensor
    partners: Tensor
    shares: Tensor


def mixup_regulariser(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    layer: Layer = None,
    order: Order = "first",
    normalise: Normalise = "minmax",
    generator: torch.Generator | None = None,
    consistency: float = 1.0,
    sparsity: float = 0.5,
    classification: float = 0.1,
    alpha: float = 0.2,
) -> MixupLoss:
    """Compute the regulariser of a batch, with one forward pass of it and one of its mixtures.

    The model runs in its current modes; DRE keeps batch norms in eval mode.

    Args:
        model: the classifier, ``[N, C, H, W]`` to logits ``[N, K]``.
        images: ``[N, C, H, W]``.
        labels: ``[N]``, int64.
        layer: layer of the CAMs, by name or as a feature space; None: resolved at each call, which takes a forward
            pass in some models. In a loop, resolve it once with :func:`~xai_align.align.captured_pass.cam_space`.
        order: of the CAM, see :mod:`~xai_align.align.saliency`.
        normalise: how CAMs are brought to [0, 1].
        generator: of partners and shares; None: PyTorch's global one, which advances.
        consistency: weight.
        sparsity: weight.
        classification: weight.
        alpha: of the Beta distribution of lambda; if small, mixtures are mostly one image or the other.

    Raises:
        TypeError, ValueError: as :func:`~xai_align.align.saliency.grad_cam`; ``alpha`` is not above 0.

    Example::

        loss = mixup_regulariser(model, images, labels, layer="conv2")
        loss.total.mean().backward()
    """
    partners = same_class_partners(labels, generator)
    lam = mixing_shares(len(labels), alpha, generator).to(images)
    space = cam_space(model, images, layer)
    seen = capture(model, images, space)
    cam = saliency_at(seen, labels, order=order, how=normalise)
    seen_mixed = capture(model, mixed(images, partners, lam), space)
    cam_mixed = saliency_at(seen_mixed, labels, order=order, how=normalise)
    logits = at_least_float32(seen_mixed.logits)
    weight = class_balance(labels, logits.shape[1]).to(cam)
    with full_precision(logits):
        entropy = F.cross_entropy(logits, labels.to(logits.device), reduction="none")
    parts = (
        weight * inconsistency(cam_mixed, cam, partners, lam),
        weight * (cam.mean((1, 2, 3)) + cam_mixed.mean((1, 2, 3))) / 2,
        weight * entropy,
    )
    total = consistency * parts[0] + sparsity * parts[1] + classification * parts[2]
    return MixupLoss(total, *parts, partners, lam)


def same_class_partners(labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return a partner of the same class for each image, ``[N]``, int64; each image is the partner of exactly one.

    Within a class the order is random, so an image may be its own partner; the only one of its class always is.

    Args:
        labels: ``[N]``, int64.
        generator: of the order; None: PyTorch's global one.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    shuffled = torch.randperm(len(labels), generator=generator, device=device).to(labels.device)
    # sorted by class, once in order and once shuffled: the same classes at the same positions
    as_they_come = labels.argsort(stable=True)
    partners = torch.empty_like(as_they_come)
    partners[as_they_come] = shuffled[labels[shuffled].argsort(stable=True)]
    return partners


def mixing_shares(count: int, alpha: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw ``count`` values from Beta(alpha, alpha), float32, on the CPU.

    Raises:
        ValueError: ``alpha`` is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha!r}; a Beta distribution needs a number above 0")
    device = generator.device if generator is not None else torch.device("cpu")
    seed = int(torch.randint(2**63 - 1, (1,), generator=generator, device=device))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count)).float()


def mixed(images: Tensor, partners: Tensor, lam: Tensor) -> Tensor:
    """Return ``lambda x + (1 - lambda) x'`` for images or maps ``[N, C, H, W]``, partners and lambda ``[N]``."""
    # exactly x where the partner is x itself
    return torch.lerp(images[partners.to(images.device)], images, lam.to(images)[:, None, None, None])


def inconsistency(cam_mixed: Tensor, cam: Tensor, partners: Tensor, lam: Tensor) -> Tensor:
    """Return ``mean | a(x_mix) - (lambda a(x) + (1 - lambda) a(x')) |`` over cells, ``[N]``."""
    return (cam_mixed - mixed(cam, partners, lam)).abs().mean((1, 2, 3))
