"""Default layers for a sharp, exact readout of a convolutional network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from xai_align import plugins
from xai_align._tools.model_state import modules_of
from xai_align.features.unwrapping import unwrapped
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.cuts import cutting_layer
from xai_align.pinet.readout_layers import ReadoutLayer, ReadoutLayers
from xai_align.question import QuestionModel

#: Index from the end of the stage whose cells are 8 pixels wide, in a network that halves its maps five times.
STAGE = -3
#: Options of a readout that select the decomposition.
CHOICES = ("weights", "rule", "gamma", "biases")


def sharp_layers(model: Any, inputs: Any) -> list[ReadoutLayer] | None:
    """Return the default mixture for a sharp readout of a convolutional network, or None for other networks.

    Half of it is the readout at the third stage from the end, by the gamma
    rule with placed biases: fine, with little noise. Half is the readout of
    the head's input: coarse, and robust to the values that replace removed
    pixels. Each sums to the whole answer, and so does the mixture. Chosen on
    EfficientNet-Lite0 and SqueezeNet (``benchmarks/readout/sharp.py``), and
    therefore only offered where a plugin names stages and head of a network of
    convolutions, batch norms and linear layers.

    A stage inside a residual branch is replaced by the enclosing block that
    cuts the network (:func:`~xai_align.pinet.cuts.is_cut`); without such a
    block there is no fine half. A head whose input is a single cell carries no
    spatial information and is left out.

    Args:
        model: the network, also compiled, data-parallel or as a ``QuestionModel``. A retrofitted one is read at the
            layer of its retrofit.
        inputs: images ``[N, C, H, W]``; the first one is run to find the layers that cut the network.

    Example::

        import timm

        network = timm.create_model("test_byobnet").eval()
        layers = sharp_layers(network, torch.rand(1, 3, 160, 160))
        readout = read_out(network, torch.rand(1, 3, 160, 160), 281, layers)
    """
    model, own_layer = unwrapped(model)
    if isinstance(model, QuestionModel):
        model, own_layer = unwrapped(model.model)
    if own_layer is not None or not isinstance(model, nn.Module) or not _is_convolutional(model):
        return None
    head, stages = plugins.feature_space(model), plugins.stages(model)
    if head is None or head.split is None or len(stages) < -STAGE or not _is_images(inputs):
        return None
    stage = cutting_layer(model, stages[STAGE], (inputs,))
    if stage is None:
        return None
    sharp = ReadoutLayer(feature_space=stage, rule="gamma", biases="placed")
    return [sharp] if _has_one_cell(head, inputs) else [sharp, ReadoutLayer(feature_space=head)]


def given_or_sharp(model: Any, given: ReadoutLayers, options: Mapping[str, Any], inputs: Any) -> ReadoutLayers:
    """Return the given layers, or :func:`sharp_layers` if there are none and no option selects a decomposition."""
    chosen = any(options.get(name) is not None for name in CHOICES)
    return given if given is not None or chosen else sharp_layers(model, inputs)


def _is_images(inputs: Any) -> bool:
    """Return whether this is a batch of images to test the network on; other inputs raise later, with a reason."""
    return isinstance(inputs, Tensor) and inputs.dim() == 4 and len(inputs) > 0 and inputs.is_floating_point()


def _has_one_cell(head: FeatureSpace, images: Tensor) -> bool:
    assert head.split is not None
    with torch.inference_mode(False), torch.no_grad():
        z = head.split.features(images[:1].detach().clone())
    return isinstance(z, Tensor) and z.dim() == 4 and z[0].numel() == z.shape[-1 if head.layout == "NHWC" else 1]


def _is_convolutional(model: nn.Module) -> bool:
    """Return whether all parameters belong to convolutions, batch norms and linear layers."""
    known = (_ConvNd, _BatchNorm, nn.Linear)
    owners = [module for module in modules_of(model) if any(p is not None for p in module._parameters.values())]
    return any(isinstance(module, _ConvNd) for module in owners) and all(isinstance(one, known) for one in owners)
