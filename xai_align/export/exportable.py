"""From a network to a module whose outputs are the logits, the maps of all classes and the bias."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.logits import select_logits
from xai_align._tools.replica import LOW_PRECISION, Replica
from xai_align._tools.thread_state import restores_thread_state
from xai_align.export.local_terms import LocalTerms, with_parameters
from xai_align.export.pinet_terms import PiNetTerms
from xai_align.features.head_input import HEAD
from xai_align.features.resolve_layer import Layer, resolve_layer
from xai_align.features.unwrapping import unwrapped
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.head_probe import probe_head
from xai_align.pinet.input_checks import check_inputs, check_logits, check_model, explained_failures
from xai_align.pinet.network.pseudo_linear import PseudoLinear, second_look_space
from xai_align.pinet.readout_layers import readout_space

#: What to do about a network without a local head.
INSTEAD = (
    "Its maps need a gradient, or a pass for each class, so no exported program can give them. A PiNet on it can be "
    "exported: train one with `xai-align fit-pinet`, or timm_align.retrofit(model, 'second_look') and fit_pinet"
)


@restores_thread_state
def exportable(
    model: Any, example: Tensor, feature_space: Layer = None, *, output: str | int | None = None
) -> LocalTerms | PiNetTerms:
    """Return a module ``x -> {"logits": [N, K], "maps": [N, K, h, w], "bias": [K]}``, with ``logits = maps + bias``.

    In that equation the maps are summed over rows and columns. They are the contributions of
    :func:`~xai_align.pinet.read_out_all_classes`, and take one forward pass and no gradient, so the module can be
    compiled and exported like any other. It shares the model's parameters and runs on the CPU, in float32 or better.

    Args:
        model: a network whose head is affine, or a trained PiNet; in eval mode.
        example: images ``[N, C, H, W]``; other images must have their size.
        feature_space: the layer of the maps; None: the head's input, or a retrofit's own.
        output: which of the model's outputs are the logits; None: the one named "logits", or the only one.

    Raises:
        ValueError: the head is not affine, or model or images are not suitable for a readout.
        TypeError: ``model`` is not a module, or ``example`` is not a tensor.

    Example::

        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        outputs = exportable(nn.Sequential(nn.Conv2d(3, 8, 3), head).eval(), images)(images)
        outputs["maps"].sum((2, 3)) + outputs["bias"]  # [2, 5], equals outputs["logits"]
    """
    return prepared(model, example, feature_space, output)[0]


def prepared(
    model: Any, example: Tensor, feature_space: Layer = None, output: str | int | None = None
) -> tuple[LocalTerms | PiNetTerms, nn.Module, FeatureSpace]:
    """Return the module, the copy of the network on the CPU that it was made from, and the copy's feature space."""
    model, own_layer = unwrapped(model)
    check_model(model)
    check_inputs(model, (example,))
    if example.dim() != 4:
        raise ValueError(f"the example has shape {list(example.shape)}; give images [N, C, H, W]")
    low = any(parameter.dtype in LOW_PRECISION for parameter in model.parameters())
    copy = Replica(model, dtype=torch.float32 if low else None)
    network, images = with_parameters(copy.module), as_input(example)
    with torch.inference_mode(False), torch.no_grad(), explained_failures((images,)):
        check_logits(select_logits(network(images.clone()), output))  # also of a network that raises an error
    if isinstance(network, PseudoLinear):
        if feature_space is not None:
            raise ValueError("a PiNet has maps of its own; leave out feature_space")
        return PiNetTerms(network), network, second_look_space(network)
    if isinstance(feature_space, str) and feature_space != HEAD:
        resolve_layer(model, feature_space)  # a name that is not there is not a network that cannot be exported
    layer = copy.rebind(next((one for one in (feature_space, own_layer) if one is not None), HEAD))
    try:
        space = readout_space(network, layer, images[:1], output)
    except ValueError as error:
        raise ValueError(f"{type(model).__name__} cannot be exported with maps: {_reason(error)}. {INSTEAD}") from error
    with torch.inference_mode(False), torch.no_grad(), explained_failures((images,)):
        z = None if space.split is None else space.split.features(images.clone())
        verdict = probe_head(network, space, z)
    if not verdict.affine:
        raise ValueError(
            f"{type(model).__name__} cannot be exported with maps: what follows '{space.layer}' is not an affine "
            f"function of a spatial feature map. {INSTEAD}"
        )
    size = (images.shape[-2], images.shape[-1])
    with torch.inference_mode(False), torch.no_grad():
        return LocalTerms(network, space, z, verdict, size, output), network, space


def as_input(images: Tensor) -> Tensor:
    """Return images as the network of :func:`prepared` expects them: on the CPU, in float32 or better."""
    return (images.float() if images.dtype in LOW_PRECISION else images).detach().cpu()


def _reason(error: Exception) -> str:
    """Return an error's message without its advice, which is for readouts with a gradient."""
    return str(error).partition("; ")[0]
