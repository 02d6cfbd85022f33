"""Explanations that mix as their images do: DRE's regulariser, which is ALIGN's, for a whole batch at once.

Of each class, images meet partners of the same class, with lambda ~ Beta(alpha, alpha) for each:

    x_mix = lambda x + (1 - lambda) x'
    consistency    = mean | a(x_mix) - (lambda a(x) + (1 - lambda) a(x')) |        a: the CAM of the class
    sparsity       = (mean a(x) + mean a(x_mix)) / 2
    classification = cross-entropy of f(x_mix) against the class

DRE's published code goes class by class and adds up class means, over the number of all classes. Weighting
each image by ``N / (K n_c)`` makes a plain mean over the batch the same, at two forward passes in all.

Source: DRE (CVPR 2023; its published code) and the published description of ALIGN (Hong et al., arXiv 2511.06944).
Differences: sparsity is the plain mean (the code takes the mean over columns of a column's maximum), a
constant CAM gives no NaN, and negative evidence is cut off (Grad-CAM's ReLU) before a CAM is normalised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xai_align.align.look import cam_space, look
from xai_align.align.saliency import Normalise, Order, at_least_float32, saliency_at
from xai_align.align.views.batch import class_balance
from xai_align.features.resolve_layer import Layer
from xai_align.pinet.network.second_look import full_precision

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
    """The loss of each image and its parts, all ``[N]``, float32, weighted for the size of its class.

    Attributes:
        total: the weighted sum; its mean over the batch is DRE's sum over classes, over their number.
        consistency: how far the CAM of the mixture is from the mixture of the CAMs.
        sparsity: how much of the image the CAMs cover.
        classification: cross-entropy of the mixture.
        partners: ``[N]``, int64: with whom each image was mixed.
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
    """The regulariser of a batch, by one forward pass of it and one of its mixtures.

    The model runs in the modes it is in; DRE keeps batch norms in eval mode.

    Args:
        model: the classifier, ``[N, C, H, W]`` to logits ``[N, K]``.
        images: ``[N, C, H, W]``.
        labels: ``[N]``, int64.
        layer: where CAMs are taken, by name or as a feature space; None: found anew at each call, which takes a pass
            in some models. In a loop, find it once with :func:`~xai_align.align.look.cam_space`.
        order: of the CAM, see :mod:`~xai_align.align.saliency`.
        normalise: how CAMs are brought to [0, 1].
        generator: of partners and shares; None: PyTorch's own, which goes on by this.
        consistency: weight.
        sparsity: weight.
        classification: weight.
        alpha: of the Beta distribution of lambda; small: mostly one image or the other.

    Raises:
        TypeError, ValueError: as :func:`~xai_align.align.saliency.grad_cam`; ``alpha`` is not above 0.

    Example::

        loss = mixup_regulariser(model, images, labels, layer="conv2")
        loss.total.mean().backward()
    """
    partners = same_class_partners(labels, generator)
    lam = mixing_shares(len(labels), alpha, generator).to(images)
    space = cam_space(model, images, layer)
    seen = look(model, images, space)
    cam = saliency_at(seen, labels, order=order, how=normalise)
    seen_mixed = look(model, mixed(images, partners, lam), space)
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
    """``[N]``, int64: a partner of the same class for each image, each image being the partner of one.

    Within a class it is a random order, so that an image may meet itself; the only one of its class always does.

    Args:
        labels: ``[N]``, int64.
        generator: of the order; None: PyTorch's own.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    shuffled = torch.randperm(len(labels), generator=generator, device=device).to(labels.device)
    # classes one after the other, once as they come and once shuffled: the same classes at the same places
    as_they_come = labels.argsort(stable=True)
    partners = torch.empty_like(as_they_come)
    partners[as_they_come] = shuffled[labels[shuffled].argsort(stable=True)]
    return partners


def mixing_shares(count: int, alpha: float, generator: torch.Generator | None = None) -> Tensor:
    """``count`` draws from Beta(alpha, alpha), float32, on the CPU.

    Raises:
        ValueError: ``alpha`` is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha!r}; a Beta distribution needs a number above 0")
    device = generator.device if generator is not None else torch.device("cpu")
    seed = int(torch.randint(2**63 - 1, (1,), generator=generator, device=device))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count)).float()


def mixed(images: Tensor, partners: Tensor, lam: Tensor) -> Tensor:
    """``lambda x + (1 - lambda) x'``; images or maps ``[N, C, H, W]``, partners and lambda ``[N]``."""
    # exactly x where the partner is x itself
    return torch.lerp(images[partners.to(images.device)], images, lam.to(images)[:, None, None, None])


def inconsistency(cam_mixed: Tensor, cam: Tensor, partners: Tensor, lam: Tensor) -> Tensor:
    """``mean | a(x_mix) - (lambda a(x) + (1 - lambda) a(x')) |`` over cells, ``[N]``."""
    return (cam_mixed - mixed(cam, partners, lam)).abs().mean((1, 2, 3))
