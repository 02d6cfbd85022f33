"""Differentiable Grad-CAM: a map of the evidence for a class that a loss can be put on.

    alpha_c = (1 / hw) sum_ij d logit_y / d A_cij        Grad-CAM (Selvaraju et al. 2017), equation 1
    CAM     = ReLU(sum_c alpha_c A_c)                    equation 2

``first`` order: the weights alpha are constants, and the gradient of a loss on the CAM flows through the
activations A only. This is the default of Captum's ``LayerGradCam``, and used by DRE and RES.
``second`` order: the gradient also flows through alpha, to the layers after A.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_choice
from xai_align._tools.full_precision import full_precision
from xai_align.align.captured_pass import CapturedPass, cam_space, capture
from xai_align.align.classes import check_classes
from xai_align.align.twice_differentiable import twice_differentiable
from xai_align.features.resolve_layer import Layer

__all__ = [
    "Normalise",
    "Order",
    "at_least_float32",
    "cam_at",
    "dead",
    "evidence_at",
    "grad_cam",
    "normalised",
    "saliency_at",
]

#: "first": the CAM's channel weights are constants. "second": the gradient also flows through them.
Order = Literal["first", "second"]
#: "max": divide a CAM by its maximum. "minmax": subtract the minimum and divide by the range. "signed": minmax of the
#: evidence before the ReLU, from the strongest evidence against the class (0) to the strongest for it (1).
Normalise = Literal["max", "minmax", "signed"]
#: A CAM with a smaller maximum (or range) is not scaled up, which would make gradients explode.
LEAST_RANGE = 1e-8
#: Factor of the logit for gradients in half precision, where small gradients would underflow.
HALF_SCALE = 2.0**10


def grad_cam(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    *,
    layer: Layer = None,
    order: Order = "first",
) -> Tensor:
    """Compute a differentiable Grad-CAM: one forward pass, and one backward pass from the logits to the layer.

    The model runs in its current modes. In train mode a batch norm after the layer mixes the images of a batch, so
    that an image's CAM depends on the others.

    Args:
        model: the classifier, ``[N, C, H, W]`` to logits ``[N, K]``.
        images: ``[N, C, H, W]``.
        target: ``[N]``, int64: the class of each.
        layer: layer of the CAM, by name or as a feature space; None: resolved at each call, which takes a forward pass
            in some models. In a loop, resolve it once with :func:`~xai_align.align.captured_pass.cam_space`.
        order: "first" or "second".

    Returns:
        ``[N, 1, h, w]``, float32 (float64 of a float64 model), not below 0, in the units of the logit.

    Raises:
        TypeError, ValueError: as :func:`~xai_align.align.captured_pass.capture` and
            :func:`~xai_align.align.captured_pass.cam_space`; the target is not a class of the model.

    Example::

        cam = grad_cam(model, images, labels, layer="conv2")  # [N, 1, h, w]
    """
    space = cam_space(model, images, layer)
    with twice_differentiable() if order == "second" else nullcontext():
        return cam_at(capture(model, images, space), target, order=order)


def cam_at(captured: CapturedPass, target: Tensor, *, order: Order = "first") -> Tensor:
    """Return the CAM from a recorded forward pass, ``[N, 1, h, w]``, not below 0; see :func:`evidence_at`."""
    return evidence_at(captured, target, order=order).relu()


def saliency_at(captured: CapturedPass, target: Tensor, *, order: Order = "first", how: Normalise = "max") -> Tensor:
    """Return the CAM from a recorded forward pass, ``[N, 1, h, w]`` in [0, 1]; see :func:`normalised`."""
    evidence = evidence_at(captured, target, order=order)
    return normalised(evidence if how == "signed" else evidence.relu(), how=how)


def evidence_at(captured: CapturedPass, target: Tensor, *, order: Order = "first") -> Tensor:
    """Return a CAM before its ReLU: evidence for the class (positive) and against it (negative).

    Args:
        captured: logits and activations of one forward pass.
        target: ``[N]``, int64: the class of each image.
        order: "first" or "second".

    Returns:
        ``[N, 1, h, w]``, float32 or float64.

    Raises:
        ValueError: the target is not a class, ``order`` is unknown, the layer has a single position, or the logits do
            not depend on it.
    """
    check_choice("order", order, ("first", "second"))
    check_classes(target, captured.logits)
    activations, logits = captured.activations, captured.logits
    if activations.shape[2] * activations.shape[3] == 1:
        raise ValueError(
            "the layer's output has a single position (1 x 1), so a CAM there ranks nothing; "
            "give larger images, or an earlier layer"
        )
    if not logits.requires_grad:
        raise ValueError(_UNREACHED)
    scale = HALF_SCALE if activations.dtype == torch.float16 else 1.0
    recording = torch.is_grad_enabled()
    with full_precision(activations), torch.inference_mode(False), torch.set_grad_enabled(recording):
        # d (sum of the images' own logits) / d A, which keeps the images separate
        chosen = torch.zeros_like(logits).scatter_(1, target.to(logits.device)[:, None], scale)
        (gradient,) = torch.autograd.grad(
            logits,
            activations,
            chosen,
            retain_graph=True,  # the loss of the logits still needs the graph
            create_graph=order == "second",
            allow_unused=True,
        )
        if gradient is None:
            raise ValueError(_UNREACHED)
        alpha = at_least_float32(gradient).mean((2, 3), keepdim=True) / scale
        return (alpha * at_least_float32(activations)).sum(1, keepdim=True)


def normalised(cam: Tensor, *, how: Normalise = "max") -> Tensor:
    """Scale each CAM to [0, 1]; the gradient flows through the scale.

    "max" keeps zero where there is no evidence; "minmax" is RES's. With both, a CAM that is zero everywhere stays zero,
    because it has no gradient. "signed" takes the evidence before the ReLU, as DRE's code does, and always has a
    gradient. A constant map becomes zero, not NaN, under the last two.

    Args:
        cam: ``[N, 1, h, w]``, not below 0; any sign for "signed".
        how: "max", "minmax" or "signed".

    Returns:
        ``[N, 1, h, w]``, float32 (float64 of float64).

    Raises:
        ValueError: ``how`` is unknown.

    Example::

        >>> import torch
        >>> from xai_align.align import normalised
        >>> normalised(torch.tensor([[[[1.0, 4.0], [2.0, 0.0]]]]))
        tensor([[[[0.2500, 1.0000],
                  [0.5000, 0.0000]]]])
    """
    check_choice("how", how, get_args(Normalise))
    cam = at_least_float32(cam)
    highest = cam.amax((1, 2, 3), keepdim=True)
    if how == "max":
        return cam / highest.clamp(min=LEAST_RANGE)
    lowest = cam.amin((1, 2, 3), keepdim=True)
    return (cam - lowest) / (highest - lowest).clamp(min=LEAST_RANGE)


def dead(cam: Tensor) -> Tensor:
    """Return which maps are zero everywhere, ``[N]``, bool: all evidence was against the class."""
    return (cam == 0).flatten(1).all(1)


def at_least_float32(values: Tensor) -> Tensor:
    """Cast half precision to single; leave others unchanged."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


_UNREACHED = "the logits do not depend on the layer's output; choose a layer that they depend on"
