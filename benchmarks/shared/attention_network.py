"""Network for methods that need attention, built from any network on images."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class BehindAttention(nn.Module):
    """Network behind two layers of attention over the pixels, which are tokens of their channels.

    Further arguments go to the network. One that is a tensor is added to the images, as the conformance checks' network
    does, so that the attention depends on it too.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(AttentionLayer(), AttentionLayer()).eval()
        self.model = model
        self.training = model.training  # not train(): that would change the mode of the model

    def forward(self, images: Tensor, *args: Any) -> Any:
        both = images + args[0] if args and isinstance(args[0], Tensor) else images
        tokens = self.layers(both.flatten(2).transpose(1, 2))
        return self.model(tokens.transpose(1, 2).reshape(images.shape), *args)


class AttentionLayer(nn.Module):
    """``x + softmax(x x^T / sqrt(C)) x``."""

    def forward(self, x: Tensor) -> Tensor:
        q = x.unsqueeze(1)
        return x + F.scaled_dot_product_attention(q, q, q).squeeze(1)
