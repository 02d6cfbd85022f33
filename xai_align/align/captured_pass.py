"""One forward pass of a classifier that captures the tensor for a CAM, differentiable before and after it.

A loss on the CAM has gradients to the layers before the tensor, and logits have a gradient
with respect to the tensor. The network continues with a copy, so in-place operations of later
layers do not change the captured tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align._tools.images import check_images
from xai_align._tools.model_state import without_checkpointing
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.cut_network import as_raster
from xai_align.features.resolve_layer import Layer, resolve_layer
from xai_align.features.routes import route_through
from xai_align.features.split_at_layer import at_a_module
from xai_align.features.unwrapping import unwrapped
from xai_align.hookspecs import FeatureSpace

__all__ = ["CapturedPass", "cam_space", "capture", "check_logits"]


@dataclass(frozen=True)
class CapturedPass:
    """Logits and captured activations of one forward pass.

    Attributes:
        logits: ``[N, K]``.
        activations: ``[N, C, h, w]`` in the image's order, without prefix tokens; part of the graph.
    """

    logits: Tensor
    activations: Tensor


def cam_space(model: nn.Module, images: Tensor, layer: Layer = None) -> FeatureSpace:
    """Return the feature space at which a CAM of this model is taken.

    Args:
        model: the classifier.
        images: ``[N, C, H, W]``; only shape, dtype and device matter.
        layer: as for :func:`~xai_align.features.resolve_layer`; None: its default for "map".

    Raises:
        ValueError, TypeError: as there, or the images are not a batch of images.
    """
    if layer is None:
        check_images("images", images, finite=False)
    return at_a_module(resolve_layer(model, layer, purpose="map", image=images[:1]))


@restores_thread_state
def capture(model: nn.Module, images: Tensor, space: FeatureSpace) -> CapturedPass:
    """Run the classifier once, in its current modes and autocast context, and capture the tensor of ``space``.

    With gradients enabled, the model itself runs, with a hook for this pass, so that a loss on the CAM has gradients to
    its parameters. Under ``no_grad`` a copy runs and the model is not touched; only the part after the layer is
    recorded, which is enough for a CAM. No hook remains, also after an error. Of compiled and data-parallel models the
    network inside runs, and at a named layer activation checkpointing is off for this pass: both would hide the tensor.

    Args:
        model: the classifier, ``[N, C, H, W]`` to ``[N, K]``.
        images: ``[N, C, H, W]``, floating.
        space: feature space of the CAM, see :func:`cam_space`.

    Raises:
        TypeError: the model is not an ``nn.Module``, or the images are not a tensor.
        ValueError: the layer isn't reached, runs twice, or gives no single map or grid of tokens; the output is not
            ``[N, K]`` with at least two classes.
    """
    inner, _ = unwrapped(model)
    if not isinstance(inner, nn.Module):
        raise TypeError(f"the classifier is a torch.nn.Module, got {type(inner).__name__}; wrap functions in a module")
    check_images("images", images, finite=False)
    if torch.is_grad_enabled():
        return _capture(inner, images.clone(), space)  # the network may write into its input
    copy = Replica(inner)
    with torch.inference_mode(False), torch.enable_grad():
        return _capture(copy.module, images.detach().clone(), copy.rebind(space))


def _capture(model: nn.Module, images: Tensor, space: FeatureSpace) -> CapturedPass:
    held: list[Tensor] = []
    size = (images.shape[-2], images.shape[-1])

    def hold(z: Tensor) -> Tensor:
        if held:
            raise ValueError(
                f"the feature space {_named(space)} has several tensors, and a CAM is taken at one; "
                "choose a layer whose output is a single tensor"
            )
        shown, back = as_raster(z, space, size)
        if not shown.requires_grad:  # nothing before it requires a gradient
            shown = shown.detach().requires_grad_()
        held.append(shown)
        return back(shown.clone())  # the network may write into it

    logits = _through(model, images, space, hold)
    if not held:
        raise ValueError(f"the feature space {_named(space)} gave no floating tensor; choose another layer")
    check_logits(logits, len(images))
    return CapturedPass(logits, held[0])


def _through(model: nn.Module, images: Tensor, space: FeatureSpace, hold: Callable[[Tensor], Tensor]) -> Any:
    """Return the model's output, passing the tensor of the space through ``hold``."""
    if space.split is not None:
        features, head = space.split
        z = features(images)
        if not isinstance(z, Tensor):
            raise ValueError(
                f"the features in front of the head are a {type(z).__name__}, and a CAM is taken at one tensor; "
                "choose a layer by its name"
            )
        return head(hold(z))
    with without_checkpointing(model):
        return route_through(model, [space], (images,), ()).returned(lambda _, z: hold(z))


def _named(space: FeatureSpace) -> str:
    return f"'{space.layer}'" if isinstance(space.layer, str) else " + ".join(f"'{name}'" for name in space.layer)


def check_logits(logits: Any, count: int) -> None:
    """Raise if these are not the logits of ``count`` images.

    Raises:
        ValueError: they are not a tensor ``[N, K]`` with at least two classes.
    """
    if not isinstance(logits, Tensor):
        keys = f" with {', '.join(map(str, list(logits)[:4]))}" if isinstance(logits, dict) else ""
        raise ValueError(
            f"the classifier gave a {type(logits).__name__}{keys} for {counted(count, 'image')}; logits [N, K] are "
            "needed. Wrap it in a module that returns them alone"
        )
    if logits.dim() != 2 or len(logits) != count:
        also = "; these look like features, so it may lack its head" if logits.dim() in (3, 4) else ""
        raise ValueError(
            f"the classifier gave {list(logits.shape)} for {counted(count, 'image')}; logits [N, K] are needed{also}"
        )
    if logits.shape[1] < 2:
        raise ValueError(
            "the classifier has one output; a class against others needs two or more, [N, K >= 2]. Of a logit z of two "
            "classes return torch.cat([-z / 2, z / 2], 1)"
        )
