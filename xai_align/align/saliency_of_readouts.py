"""The exact readout as the map that a loss is put on, in place of Grad-CAM.

    S_p = sum_c beta_cp z_cp        contribution of cell p to the logit of the label, in logits, signed

For an alignment with masks in [0, 1] the signed map is scaled as CAMs are (:func:`normalised`):

    max      a_p = P_p / max P,                          P = max(S, 0): evidence for the label, that against is none
    minmax   a_p = (P_p - min P) / (max P - min P)
    signed   a_p = (S_p - min S) / (max S - min S)       from the strongest evidence against (0) to that for it (1)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from xai_align._tools.images import check_images
from xai_align._tools.model_state import evaluating
from xai_align.align.captured_pass import cam_space
from xai_align.align.saliency import Normalise, at_least_float32, normalised
from xai_align.align.twice_differentiable import twice_differentiable
from xai_align.features.last_token_layer import last_token_layer
from xai_align.features.resolve_layer import Layer, resolve_layer
from xai_align.features.spatial import contribution_map
from xai_align.features.split_at_layer import at_a_module
from xai_align.features.unwrapping import unwrapped
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.differentiable_readout import differentiable_readout
from xai_align.pinet.readout import read_out

__all__ = ["Saliency", "check_readout", "readout_evidence", "readout_saliency", "saliency_space"]

#: "gradcam": the Grad-CAM of the label. "readout": the exact readout of its logit.
Saliency = Literal["gradcam", "readout"]
#: Largest difference between the differentiable map and that of a readout, relative to the largest value of the map.
TOLERANCE = 1e-3


def saliency_space(
    model: nn.Module, images: Tensor, layer: Layer = None, *, saliency: Saliency = "gradcam"
) -> FeatureSpace:
    """Return the feature space at which maps of this model are taken.

    Args:
        model: the classifier.
        images: ``[N, C, H, W]``; only shape, dtype and device matter.
        layer: as for :func:`~xai_align.features.resolve_layer`. None: for Grad-CAM see
            :func:`~xai_align.align.captured_pass.cam_space`; for the readout the input of the head, and of a network
            whose head reads a class token the last layer at which patch tokens affect the logits.
        saliency: the kind of map.

    Raises:
        ValueError, TypeError: as :func:`~xai_align.align.captured_pass.cam_space`.
    """
    if saliency == "gradcam" or layer is not None:
        return cam_space(model, images, layer)
    check_images("images", images, finite=False)
    try:
        return at_a_module(resolve_layer(model, None, purpose="readout", image=images[:1]))
    except ValueError:  # its head reads no grid
        inner, _ = unwrapped(model)
        return last_token_layer(inner, images[:1]) or cam_space(model, images)


def readout_evidence(model: nn.Module, images: Tensor, target: Tensor, *, layer: Layer = None) -> Tensor:
    """Return the readout of each image's class as a map with gradients in the model's parameters.

    The map is that of the model in eval mode, whatever its modes are, and the model is not changed. So batch norms use
    their running statistics, and an image's map does not depend on the others.

    Args:
        model: the classifier, ``[N, C, H, W]`` to logits ``[N, K]``.
        images: ``[N, C, H, W]``.
        target: ``[N]``, int64: the class of each.
        layer: layer of the map, by name or as a feature space; None: see :func:`saliency_space`. In a loop, resolve it
            once.

    Returns:
        ``[N, 1, h, w]``, float32 or float64, signed, in logits. Its sum over cells is the logit without the bias, and
        without what prefix tokens and paths around the layer contribute.

    Raises:
        TypeError, ValueError, NotImplementedError: as
            :func:`~xai_align.pinet.differentiable_readout.differentiable_readout`; the target is not a class of the
            model, or the layer is a grid of 1 x 1.

    Example::

        evidence = readout_evidence(model, images, labels)  # [N, 1, h, w]
        evidence.relu().mean().backward()
    """
    space = saliency_space(model, images, layer, saliency="readout")
    with twice_differentiable():
        found = differentiable_readout(model, images, target, space)
    if found.map[0].numel() == 1:
        raise ValueError(
            f"the layer '{space.layer}' has a single position (1 x 1), so a map there ranks nothing; give larger "
            "images, or an earlier layer"
        )
    return at_least_float32(found.map)[:, None]


def readout_saliency(
    model: nn.Module, images: Tensor, target: Tensor, *, layer: Layer = None, how: Normalise = "max"
) -> Tensor:
    """Return :func:`readout_evidence` scaled to [0, 1], ``[N, 1, h, w]``; see the module's formulas.

    Args:
        model: as for :func:`readout_evidence`.
        images: as for :func:`readout_evidence`.
        target: as for :func:`readout_evidence`.
        layer: as for :func:`readout_evidence`.
        how: "max" or another scaling of :func:`~xai_align.align.normalised`; all but "signed" leave negative evidence
            out.

    Example::

        saliency = readout_saliency(model, images, labels)  # [N, 1, h, w], 1 at each map's strongest evidence
    """
    evidence = readout_evidence(model, images, target, layer=layer)
    return normalised(evidence if how == "signed" else evidence.relu(), how=how)


def check_readout(model: nn.Module, images: Tensor, target: Tensor, space: FeatureSpace) -> None:
    """Compare the differentiable map with a readout, which checks its own sum.

    Raises:
        CompletenessError: contributions and bias miss the logits.
        ValueError: the maps differ, or there is none.
    """
    with evaluating(model):
        found = readout_evidence(model, images, target, layer=space).detach()[:, 0]
        exact = read_out(model, images, target.tolist(), space)
    assert isinstance(exact.contributions, Tensor)
    expected = contribution_map(exact.contributions, exact.feature_space, (images.shape[-2], images.shape[-1]))
    difference, size = (found - expected).abs().max(), expected.abs().max()
    if not bool(difference <= TOLERANCE * size.clamp_min(torch.finfo(size.dtype).tiny)):
        raise ValueError(
            f"the readout at '{space.layer}' that training differentiates differs from the exact one by "
            f"{float(difference):.3g}, of at most {float(size):.3g}; give another layer, or saliency='gradcam'"
        )
