"""Pseudo-linear networks with the library's readouts as methods."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from xai_align.pinet.all_classes import ClassReadout, read_out_all_classes
from xai_align.pinet.network.pseudo_linear import PseudoLinear
from xai_align.pinet.readout import Readout, read_out


class SelfReadout(PseudoLinear):
    """Pseudo-linear network with methods for its own readout."""

    def read_out(self, inputs: Tensor, question: Any = None) -> Readout:
        """Return the contribution of every readable feature to an answer: :func:`~xai_align.read_out`."""
        return read_out(self, inputs, question)

    def read_out_all_classes(self, inputs: Tensor) -> ClassReadout:
        """Return the maps of all classes at once: :func:`~xai_align.pinet.read_out_all_classes`."""
        return read_out_all_classes(self, inputs)
