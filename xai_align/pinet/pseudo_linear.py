"""Networks whose forward pass is the sum that explains it."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.second_look import SecondLook

if TYPE_CHECKING:
    from xai_align.pinet.all_classes import ClassReadout
    from xai_align.pinet.readout import Readout


def second_look_space(model: PseudoLinear) -> FeatureSpace:
    """The feature space in which a network accounts for itself: its readable features."""
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
        """The logits of images ``[N, C, H, W]`` with everything that they are the sum of."""

    def read_out(self, inputs: Tensor, question: Any = None) -> Readout:
        """What every readable feature adds to the answer to a question: :func:`~xai_align.read_out`."""
        from xai_align.pinet.readout import read_out

        return read_out(self, inputs, question)

    def read_out_all_classes(self, inputs: Tensor) -> ClassReadout:
        """The maps of all classes at once: :func:`~xai_align.pinet.read_out_all_classes`."""
        from xai_align.pinet.all_classes import read_out_all_classes

        return read_out_all_classes(self, inputs)
