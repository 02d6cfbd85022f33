"""The losses a PiNet is trained with, one pure function each.

Symbols as in the paper: ``pi`` the coefficients, ``pi*`` a mask, ``x`` an image.
Shapes: N examples, K classes, C channels of a feature, h and w rows and columns of a map.

Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378) and the authors' code, but where a
docstring says that a term is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align.pinet.network.coefficient_decoder import resized

#: What is predicted: one of K classes, any of K, yes or no (K = 1), K amounts, a class for each place.
Task = Literal["multiclass", "multilabel", "binary", "regression", "segmentation"]
#: Differences of neighbouring pixels above this, in [0, 1], are edges of a picture.
EDGE = 0.03

TASKS: tuple[Task, ...] = ("multiclass", "multilabel", "binary", "regression", "segmentation")


def prediction_loss(task: Task, logits: Tensor, maps: Tensor, targets: Tensor) -> Tensor:
    """How far the answer is from the target, a scalar: the mean over the batch.

    Args:
        task: what is predicted.
        logits: ``[N, K]``.
        maps: ``[N, K, h, w]``, the coefficients; only segmentation looks at them.
        targets: multiclass: int64 ``[N]``. multilabel: ``[N, K]`` in [0, 1]. binary: ``[N, 1]`` in [0, 1].
            regression: ``[N, K]``, in the unit of the logits (areas: pixels). segmentation: int64 ``[N, h, w]``,
            or ``[N, K, h, w]`` in [0, 1].
    """
    match task:
        case "multiclass":
            return F.cross_entropy(logits, targets)
        case "multilabel" | "binary":
            return F.binary_cross_entropy_with_logits(logits, targets.to(logits))
        case "regression":
            return (logits - targets.to(logits)).abs().mean()  # mean absolute error, as the paper's flood model
        case "segmentation":
            return segmentation_loss(maps, targets)


def segmentation_loss(maps: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy at every place; the coefficients are read as probabilities.

    Args:
        maps: ``[N, K, h, w]``, none below zero.
        targets: int64 ``[N, h, w]``, one class for each place (the maps are divided by their sum over the
            classes, which is one after a softmax; with K = 1 the label says yes or no), or ``[N, K, h, w]`` in
            [0, 1], each class by itself.

    Raises:
        ValueError: coefficients below zero, or above one where each class stands by itself.
    """
    by_itself = targets.is_floating_point() or maps.shape[1] == 1
    low, high = float(maps.detach().min()), float(maps.detach().max())
    if low < 0 or (by_itself and high > 1 + 1e-6):
        raise ValueError(
            f"segmentation reads the coefficients as probabilities, but they lie between {low:.3g} and {high:.3g}; "
            "use a detector with activation 'softmax' or 'sigmoid'"
        )
    if by_itself:
        wanted = targets if targets.dim() == 4 else targets[:, None]
        return F.binary_cross_entropy(maps.clamp(max=1), wanted.to(maps))
    return F.nll_loss((maps / maps.sum(1, keepdim=True).clamp(min=1e-12)).clamp(min=1e-12).log(), targets)


def feedback_loss(pi: Tensor, pi_again: Tensor) -> Tensor:
    """Recursive feedback: the detector finds in the detected signal what it found in the image.

    ``mean (pi(x) - pi(relu(pi(x) * x)))^2`` over the batch and all coefficients. Gradients go through both.
    """
    return (pi - pi_again).square().mean()


def parsimony_loss(pi: Tensor) -> Tensor:
    """``mean_batch sum pi^2``: the sum runs over all coefficients of an example, of all classes and places.

    It is not divided by their number: a map of twice the side has four times the loss.
    """
    return pi.square().flatten(1).sum(1).mean()


def mask_loss(pi: Tensor, masks: Tensor) -> Tensor:
    """Strong supervision, ``mean_p (pi*_p - pi_p)^2``, over the places whose mask is known.

    Args:
        pi: ``[N, K, h, w]``.
        masks: the same shape, NaN where nothing is known. If nothing is known in the batch the loss is zero. One
            known mask among many examples counts in full, as in the paper, where each batch had one.
    """
    known = ~masks.isnan()
    error = torch.where(known, masks, 0) - torch.where(known, pi, 0)  # no NaN even in the gradient
    return error.square().sum() / known.sum().clamp(min=1)


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))``, the mean over the batch.

    Args:
        logits: ``[..., K]``, the student's.
        teacher: the same shape.
        temperature: T; the higher, the more the small logits count.
    """
    wanted, found = (F.log_softmax(one / temperature, -1) for one in (teacher.to(logits), logits))
    return temperature**2 * (wanted.exp() * (wanted - found)).sum(-1).mean()


def yes_or_no(logits: Tensor) -> Tensor:
    """``[N, K]`` logits of independent answers as ``[N, K, 2]`` whose softmax is sigmoid and its rest."""
    return torch.stack([logits, torch.zeros_like(logits)], -1)


def erasing_loss(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Ours: once what was detected is erased, the class must be gone; so maps become complete.

    multiclass: ``-log(1 - p_y)``. binary, multilabel: the cross entropy towards "no" of the classes that were there.

    Args:
        task: what is predicted.
        logits: ``[N, K]``, of the images with the detected signal erased.
        targets: of the images as they were, as in :func:`prediction_loss`.
    """
    if task == "multiclass":
        others = logits.scatter(1, targets[:, None], -torch.inf)
        return (logits.logsumexp(1) - others.logsumexp(1)).mean()
    return (targets.to(logits) * F.softplus(logits)).mean()


def edge_loss(pi: Tensor, pictures: Tensor) -> Tensor:
    """Ours: ``mean_batch sum_p |grad pi| exp(-|grad x| / EDGE)``, a map pays for its edges where the picture has none.

    The edge-aware smoothness of monocular depth (Godard et al. 2017, arXiv 1609.03677), asked of coefficients.

    Args:
        pi: ``[N, K, h, w]``.
        pictures: ``[N, C, H, W]``, not normalised; they are averaged down to the map's size.
    """
    if pictures.shape[-2:] != pi.shape[-2:]:
        pictures = F.interpolate(pictures, size=pi.shape[-2:], mode="area")
    cost = pi.new_zeros(())
    for axis in (2, 3):
        flat = torch.exp(-pictures.diff(dim=axis).abs().mean(1, keepdim=True) / EDGE).to(pi)
        cost = cost + (pi.diff(dim=axis).abs() * flat).flatten(1).sum(1).mean()
    return cost


def unnormalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images ``[N, C, H, W]`` as they were before ``(x - mean) / std``."""
    centre, spread = (images.new_tensor(values).reshape(-1, 1, 1) for values in (mean, std))
    return images * spread + centre


def detected_signal(images: Tensor, gate: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``relu(pi(x) * x)``, the product taken on pixels as they were before normalisation, then normalised again.

    Args:
        images: ``[N, C, H, W]``, normalised with ``mean`` and ``std``.
        gate: ``[N, 1 or C, H, W]``: ``pi`` on the image's pixels (:func:`gate_of`).
        mean, std: for each channel, or one for all.
    """
    centre, spread = (images.new_tensor(values).reshape(-1, 1, 1) for values in (mean, std))
    return (torch.relu(gate * unnormalised(images, mean, std)) - centre) / spread


def erased(images: Tensor, gate: Tensor) -> Tensor:
    """The images faded into their own median colour where ``pi`` is one (ours).

    Args:
        images: ``[N, C, H, W]``.
        gate: ``[N, 1 or C, H, W]``, used within [0, 1].
    """
    colour = images.detach().flatten(2).median(2).values[..., None, None]
    return images + gate.clamp(0, 1) * (colour - images)


def gate_of(pi: Tensor, images: Tensor) -> Tensor:
    """Coefficients ``[N, C', h, w]`` on the image's pixels, ``[N, 1 or C, H, W]``, bilinear.

    Coefficients that don't belong to the image's channels one by one are averaged.
    """
    if pi.shape[1] != images.shape[1]:
        pi = pi.mean(1, keepdim=True)
    return resized(pi, (images.shape[-2], images.shape[-1]))


def asked(task: Task, pi: Tensor, targets: Tensor) -> Tensor:
    """The coefficients ``[N, C, h, w]`` of what an example is labelled as.

    multiclass: those of its class. multilabel: the largest among its classes (zero if it has none).

    Args:
        task: what is predicted.
        pi: ``[N, K or 1, C, h, w]``; coefficients that all classes share are theirs.
        targets: as in :func:`prediction_loss`.
    """
    if pi.shape[1] == 1:
        return pi[:, 0]
    if task == "multiclass":
        return pi[torch.arange(len(pi), device=pi.device), targets]
    there = (targets > 0.5)[:, :, None, None, None]
    return torch.where(there, pi, -torch.inf).amax(1).masked_fill(~there.any(1), 0)
