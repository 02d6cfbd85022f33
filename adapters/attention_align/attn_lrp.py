"""AttnLRP: layer-wise relevance propagation through attention weights and values."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attention_align.captum_call import CaptumCall
from xai_align.features.grid_layers import grid_layers
from xai_align.features.unwrapping import network_of
from xai_align.pinet import ReadoutLayer
from xai_align.pinet.batches import read_out_in_batches

#: Strength of the gamma rule in linear layers, of the order that its authors find for vision transformers.
GAMMA = 0.05


class AttnLRP(CaptumCall):
    """Relevance of patches by AttnLRP.

    Identity rules for norms and activations, half of the relevance of a product to either factor, the derivative of
    softmax, and the gamma rule in linear layers: the exact readout with flowing attention at the patch embedding of
    the network, without its constants.

    Args:
        forward_func: an ``nn.Module`` on one batch of images, or a ``QuestionModel`` of one.
        gamma: the strength of the gamma rule.

    Raises:
        TypeError: the model is not an ``nn.Module``.

    Source: Achtibat et al. 2024 (AttnLRP, ICML).

    Example::

        import timm

        network = timm.create_model("test_vit").eval()
        AttnLRP(network).attribute(torch.rand(1, 3, 160, 160), target=3)  # [1, 3, 160, 160]
    """

    name = "attn_lrp"
    multiplies_by_inputs = True

    def __init__(self, forward_func: Any, *, gamma: float = GAMMA) -> None:
        super().__init__(forward_func)
        self.gamma = gamma

    def attributions(
        self, images: Tensor, target: Any, additional_forward_args: Any, internal_batch_size: int | None
    ) -> Tensor:
        """Return relevance in the images' shape; the constants of softmax and of biases are left out."""
        readout = read_out_in_batches(
            self.forward_func,
            (images,),
            target,
            ReadoutLayer(feature_space=self._first_grid(images), rule="gamma", gamma=self.gamma, attention="flowing"),
            additional_forward_args=additional_forward_args,
            internal_batch_size=internal_batch_size,
        )
        return readout.on_images(images.shape[1])

    def _first_grid(self, images: Tensor) -> Any:
        model, _ = network_of(self.forward_func)
        pixels = tuple(images.shape[-2:])  # a normalisation's output is no grid of patches
        layers = [layer for layer in grid_layers(model, images[:1]) if layer.grid != pixels]
        if not layers:
            raise ValueError(
                f"no layer of {type(model).__name__} is a grid of patches through which all evidence passes"
            )
        return layers[0].space
