"""Networks whose forward pass is a sum of contributions."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.network.second_look import SecondLook


def second_look_space(model: PseudoLinear) -> FeatureSpace:
    """Return the feature space of a network's own decomposition: its readable features."""
    return FeatureSpace(layer=model.readable, layout="NCHW")


class PseudoLinear(nn.Module):
    """Network that decomposes its own logits: :class:`~xai_align.pinet.PiNet`, or an ensemble of them.

    :meth:`explain` returns the logits and all their terms, and all readouts of
    this library use these.
    """

    #: Name of the features that the terms belong to, for feature spaces and figures.
    readable: str = "second look"

    @abstractmethod
    def explain(self, x: Tensor) -> SecondLook:
        """Return the logits of images ``[N, C, H, W]`` with all terms of their sum."""
