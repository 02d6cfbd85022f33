"""Networks whose forward pass is the sum that explains it."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.network.second_look import SecondLook


def second_look_space(model: PseudoLinear) -> FeatureSpace:
    """Return the feature space in which a network accounts for itself: its readable features."""
    return FeatureSpace(layer=model.readable, layout="NCHW")


class PseudoLinear(nn.Module):
    """A network that accounts for its own logits: :class:`~xai_align.pinet.PiNet`, or an ensemble of them.

    Nothing has to be read out of it: :meth:`explain` gives the logits and all
    their terms, and everything in this library that reads networks out takes
    these.
    """

    #: What the terms are about, for feature spaces and figures.
    readable: str = "second look"

    @abstractmethod
    def explain(self, x: Tensor) -> SecondLook:
        """Return the logits of images ``[N, C, H, W]`` with everything that they are the sum of."""
