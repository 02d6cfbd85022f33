"""Captum's Layer Grad-CAM at the hook's feature space, on the right axes, in the input's shape."""

from __future__ import annotations

from typing import Any

from captum._utils.common import _format_output, _format_tensor_into_tuples, _is_tuple
from captum.attr import Attribution, LayerGradCam
from captum.log import log_usage
from torch import Tensor, nn

from captum_align.without_futures import WithoutFutures
from xai_align.adapter_tools import check_not_empty, resize_keeping_sum, restores_thread_state
from xai_align.features.cut_network import CutNetwork
from xai_align.features.resolve_layer import Layer, resolve_layer
from xai_align.features.unwrapping import unwrapped
from xai_align.pinet.input_checks import named_gradient_errors
from xai_align.question import QuestionModel


class FeatureSpaceGradCam(WithoutFutures, Attribution):
    """Grad-CAM at a feature space: mean gradient over positions times activation, summed over channels.

    Captum's ``LayerGradCam`` takes every layer as channels first, which is wrong
    for tokens and for channels last. Here it gets the feature space as
    ``[N, C, h, w]`` without prefix tokens. There is no ReLU by default. A
    cell's value is spread evenly over its pixels and the channels, which
    preserves the sum.

    Args:
        forward_func: an ``nn.Module`` on one batch of images, or a ``QuestionModel`` of one.
        layer: a layer's name or module, or a ``FeatureSpace``. None: a retrofit's own feature space; else the head's
            input where it has positions; else the last tokens that affect the answer (in a ViT with a class token, the
            last block's first norm), or the output of the last ``Conv2d``.

    Raises:
        TypeError: the model is not an ``nn.Module``.
    """

    def __init__(self, forward_func: nn.Module, layer: Layer = None) -> None:
        if not isinstance(forward_func, nn.Module):
            raise TypeError(f"Grad-CAM needs a torch.nn.Module, got {type(forward_func).__name__}")
        Attribution.__init__(self, forward_func)
        self.layer = layer

    @log_usage()
    @restores_thread_state
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        relu_attributions: bool = False,
    ) -> Any:
        """Return the map in the shape of ``inputs``.

        Raises:
            ValueError: the inputs are not images, or there are none, or the layer has no positions in the image.
        """
        images = _format_tensor_into_tuples(inputs)
        if len(images) != 1 or images[0].dim() != 4:
            shapes = ", ".join(str(list(x.shape)) for x in images)
            raise ValueError(f"Grad-CAM explains one batch of images [N, C, H, W], got {shapes}")
        check_not_empty(images)
        cut, asked = _cut(self.forward_func, self.layer, images[0][:1])
        size = (images[0].shape[-2], images[0].shape[-1])
        method = LayerGradCam(asked, cut.here)
        total = images[0].new_zeros((len(images[0]), *size))
        while cut.part == 0 or cut.part < cut.parts:  # their number is known after the first pass
            with named_gradient_errors():
                cam = method.attribute(images, target, additional_forward_args, relu_attributions=relu_attributions)
            total = total + resize_keeping_sum(cam.detach().squeeze(1), size)
            cut.part += 1
        channels = images[0].shape[1]
        attributions = (total.unsqueeze(1) / channels).expand_as(images[0]).contiguous()
        return _format_output(_is_tuple(inputs), (attributions,))

    @property
    def multiplies_by_inputs(self) -> bool:
        """Return True: the map is coefficient times activation."""
        return True

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name in tables."""
        return "Layer Grad-CAM"


def _cut(model: Any, layer: Layer, image: Tensor) -> tuple[CutNetwork, nn.Module]:
    """Return the network cut at the layer, and the module that Captum runs: the same, or a ``QuestionModel`` of it."""
    outer, own_layer = unwrapped(model)
    inner = outer.model if isinstance(outer, QuestionModel) else outer
    if inner is not outer:
        inner, own_layer = unwrapped(inner)
    where = own_layer if layer is None else layer
    space = resolve_layer(inner, where, purpose="gradient", image=image)
    cut = CutNetwork(inner, space)
    return cut, QuestionModel(cut, outer.questions) if isinstance(outer, QuestionModel) else cut
