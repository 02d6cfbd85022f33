"""AttnLRP: layer-wise relevance propagation through attention weights and values."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from xai_align.adapter_tools import restores_thread_state
from xai_align.features.grid_layers import grid_layers
from xai_align.features.unwrapping import unwrapped
from xai_align.pinet import ReadoutLayer
from xai_align.pinet.batches import read_out_in_batches
from xai_align.question import QuestionModel

#: Strength of the gamma rule in linear layers, of the order that its authors find for vision transformers.
GAMMA = 0.05


class AttnLRP:
    """Relevance of patches by AttnLRP, with Captum's call.

    Identity rules for norms and activations, half of the relevance of a product to either factor, the derivative of
    softmax, and the gamma rule in linear layers: the exact readout with flowing attention where patches enter the
    network, without its constants.

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

    #: Attribute that Captum's code uses.
    multiplies_by_inputs = True

    def __init__(self, forward_func: Any, *, gamma: float = GAMMA) -> None:
        if not isinstance(forward_func, nn.Module):
            raise TypeError(f"attn_lrp looks into a torch.nn.Module, got {type(forward_func).__name__}")
        self.forward_func, self.gamma = forward_func, gamma

    @restores_thread_state
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = 4,
    ) -> Any:
        """Return the map in the shape of ``inputs``, detached.

        Args:
            inputs: images ``[N, C, H, W]``, or a tuple of one such tensor.
            target: any target of Captum's methods, numpy integers and arrays, or an ``xai_align.Question``.
            additional_forward_args: further arguments of the model.
            internal_batch_size: number of images whose attention matrices are in memory at once; None: all.

        Raises:
            TargetError: (an AssertionError) the target does not fit the output.
            ValueError: the inputs are not images, or no layer of the network is a grid.
        """
        images = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(images) != 1 or not isinstance(images[0], Tensor) or images[0].dim() != 4:
            raise ValueError("attn_lrp explains one batch of images [N, C, H, W]")
        readout = read_out_in_batches(
            self.forward_func,
            images,
            target,
            ReadoutLayer(
                feature_space=self._first_grid(images[0]), rule="gamma", gamma=self.gamma, attention="flowing"
            ),
            additional_forward_args=additional_forward_args,
            internal_batch_size=internal_batch_size,
        )
        attributions = readout.on_images(images[0].shape[1])
        return (attributions,) if isinstance(inputs, tuple) else attributions

    def _first_grid(self, images: Tensor) -> Any:
        model, _ = unwrapped(self.forward_func)
        if isinstance(model, QuestionModel):
            model, _ = unwrapped(model.model)
        layers = grid_layers(model, images[:1])
        if not layers:
            raise ValueError(f"no layer of {type(model).__name__} is a grid through which all evidence passes")
        return layers[0].space

    def has_convergence_delta(self) -> bool:
        """Return False: the constants of softmax and of biases are left out."""
        return False

    def get_name(self) -> str:
        """Return the method's name in tables."""
        return "attn_lrp"
