"""A trained PiNet as a module that returns its logits and the terms of their sum as maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xai_align.pinet.network.ensemble import PiNetEnsemble
from xai_align.pinet.network.module import PiNet
from xai_align.pinet.network.pseudo_linear import PseudoLinear


class PiNetTerms(nn.Module):
    """Module ``x -> {"logits": [N, K], "maps": [N, K, h, w], "bias": [K]}`` of a PiNet or an ensemble of them.

    The maps of ``logit_k = a_k + s_k sum pi_k z_k`` are the terms ``s_k pi_k z_k``, summed over channels, at the
    resolution of the second look; of an ensemble, the mean of its members' maps.

    Args:
        network: a copy of the network.
    """

    outputs = ("logits", "maps", "bias")

    def __init__(self, network: PseudoLinear) -> None:
        super().__init__()
        self.network = network
        self.training = False

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits, maps and bias of images ``[N, C, H, W]``."""
        members = self.network.members if isinstance(self.network, PiNetEnsemble) else [self.network]
        terms = [_terms(member, images) for member in members]
        means = [torch.stack(part).mean(0) if len(part) > 1 else part[0] for part in zip(*terms, strict=True)]
        return dict(zip(self.outputs, means, strict=True))


def _terms(member: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if isinstance(member, PiNet):  # without the checks of explain(), which depend on the values
        look = member.head(member.encoder(images), images)
    else:
        assert isinstance(member, PseudoLinear)
        look = member.explain(images)
    return look.logits, look.maps, look.bias
