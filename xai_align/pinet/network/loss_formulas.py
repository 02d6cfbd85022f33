"""Losses for training a PiNet, one pure function each.

Symbols as in the paper: ``pi`` the coefficients, ``pi*`` a mask, ``x`` an image.
Shapes: N examples, K classes, C channels of a feature, h and w rows and columns of a map.

Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378) and the authors' code, except where a
docstring marks a term as ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align.pinet.network.coefficient_decoder import resized

#: Kind of prediction: one of K classes, any of K, yes or no (K = 1), K amounts, a class for each position.
Task = Literal["multiclass", "multilabel", "binary", "regression", "segmentation"]
#: Differences of neighbouring pixels above this, in [0, 1], are edges of a picture.
EDGE = 0.03

TASKS: tuple[Task, ...] = ("multiclass", "multilabel", "binary", "regression", "segmentation")


def prediction_loss(task: Task, logits: Tensor, maps: Tensor, targets: Tensor) -> Tensor:
    """Return the prediction loss, a scalar: the mean over the batch.

    Args:
        task: the kind of prediction.
        logits: ``[N, K]``.
        maps: ``[N, K, h, w]``, the coefficients, used for segmentation only.
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
    """Return the cross entropy at every position, with coefficients as probabilities.

    Args:
        maps: ``[N, K, h, w]``, none below zero.
        targets: int64 ``[N, h, w]``, one class per position (the maps are divided by their sum over the
            classes, which is one after a softmax; with K = 1 the label is binary), or ``[N, K, h, w]`` in
            [0, 1], each class independently.

    Raises:
        ValueError: coefficients are below zero, or above one where classes are independent.
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
    """Return the recursive feedback loss, which compares detection in the image and in its detected signal.

    ``mean (pi(x) - pi(relu(pi(x) * x)))^2`` over the batch and all coefficients. Gradients go through both.
    """
    return (pi - pi_again).square().mean()


def parsimony_loss(pi: Tensor) -> Tensor:
    """Return ``mean_batch sum pi^2``, the sum over all coefficients of an example, of all classes and positions.

    It is not divided by their number: a map of twice the side length has four times the loss.
    """
    return pi.square().flatten(1).sum(1).mean()


def mask_loss(pi: Tensor, masks: Tensor) -> Tensor:
    """Return the strong supervision loss ``mean_p (pi*_p - pi_p)^2`` over the positions whose mask is known.

    Args:
        pi: ``[N, K, h, w]``.
        masks: the same shape, NaN where unknown. If the batch has no known mask the loss is zero. One known mask
            among many examples has full weight, as in the paper, where each batch had one.
    """
    known = ~masks.isnan()
    error = torch.where(known, masks, 0) - torch.where(known, pi, 0)  # no NaN in the gradient either
    return error.square().sum() / known.sum().clamp(min=1)


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``T^2 KL(softmax(teacher / T) || softmax(student / T))``, the mean over the batch.

    Args:
        logits: ``[..., K]``, the student's.
        teacher: the same shape.
        temperature: T; higher values give small logits more weight.
    """
    wanted, found = (F.log_softmax(one / temperature, -1) for one in (teacher.to(logits), logits))
    return temperature**2 * (wanted.exp() * (wanted - found)).sum(-1).mean()


def yes_or_no(logits: Tensor) -> Tensor:
    """Return ``[N, K, 2]`` whose softmax is the sigmoid of logits ``[N, K]`` and its complement."""
    return torch.stack([logits, torch.zeros_like(logits)], -1)


def erasing_loss(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the erasing loss (ours): without the detected signal the class must be gone, so maps become complete.

    multiclass: ``-log(1 - p_y)``. binary, multilabel: the cross entropy towards "no" of the classes that were present.

    Args:
        task: the kind of prediction.
        logits: ``[N, K]``, of the images with the detected signal erased.
        targets: those of the original images, as in :func:`prediction_loss`.
    """
    if task == "multiclass":
        others = logits.scatter(1, targets[:, None], -torch.inf)
        return (logits.logsumexp(1) - others.logsumexp(1)).mean()
    return (targets.to(logits) * F.softplus(logits)).mean()


def edge_loss(pi: Tensor, pictures: Tensor) -> Tensor:
    """Return ``mean_batch sum_p |grad pi| exp(-|grad x| / EDGE)`` (ours), a penalty on edges that the image lacks.

    The edge-aware smoothness of monocular depth (Godard et al. 2017, arXiv 1609.03677), applied to coefficients.

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
    """Return images ``[N, C, H, W]`` with ``(x - mean) / std`` undone."""
    centre, spread = (images.new_tensor(values).reshape(-1, 1, 1) for values in (mean, std))
    return images * spread + centre


def detected_signal(images: Tensor, gate: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return ``relu(pi(x) * x)``, computed on un-normalised pixels and normalised again.

    Args:
        images: ``[N, C, H, W]``, normalised with ``mean`` and ``std``.
        gate: ``[N, 1 or C, H, W]``: ``pi`` on the image's pixels (:func:`gate_of`).
        mean, std: for each channel, or one for all.
    """
    centre, spread = (images.new_tensor(values).reshape(-1, 1, 1) for values in (mean, std))
    return (torch.relu(gate * unnormalised(images, mean, std)) - centre) / spread


def erased(images: Tensor, gate: Tensor) -> Tensor:
    """Return the images blended into their own median colour where ``pi`` is one (ours).

    Args:
        images: ``[N, C, H, W]``.
        gate: ``[N, 1 or C, H, W]``, clamped to [0, 1].
    """
    colour = images.detach().flatten(2).median(2).values[..., None, None]
    return images + gate.clamp(0, 1) * (colour - images)


def gate_of(pi: Tensor, images: Tensor) -> Tensor:
    """Resize coefficients ``[N, C', h, w]`` bilinearly to the image's pixels, ``[N, 1 or C, H, W]``.

    Coefficients that do not correspond to the image's channels are averaged.
    """
    if pi.shape[1] != images.shape[1]:
        pi = pi.mean(1, keepdim=True)
    return resized(pi, (images.shape[-2], images.shape[-1]))


def asked(task: Task, pi: Tensor, targets: Tensor) -> Tensor:
    """Return the coefficients ``[N, C, h, w]`` of each example's label.

    multiclass: those of its class. multilabel: the largest among its classes (zero if it has none).

    Args:
        task: the kind of prediction.
        pi: ``[N, K or 1, C, h, w]``; coefficients shared by all classes apply to each.
        targets: as in :func:`prediction_loss`.
    """
    if pi.shape[1] == 1:
        return pi[:, 0]
    if task == "multiclass":
        return pi[torch.arange(len(pi), device=pi.device), targets]
    there = (targets > 0.5)[:, :, None, None, None]
    return torch.where(there, pi, -torch.inf).amax(1).masked_fill(~there.any(1), 0)
