"""The ways of recording a pass, and the one to try after another has failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from xai_align.pinet.gates.frozen_gates import FrozenGates, SharedViews
from xai_align.pinet.gates.rule_registry import Rule
from xai_align.pinet.recording import NothingFlows


@dataclass(frozen=True)
class Manner:
    """How a pass is recorded; each departure from the first manner is tried where the one before fails.

    Attributes:
        gates_flow: gates are read as activations.
        separate_views: views that the network writes into are views of one tensor each.
        copied: what autograd saves is copied, because the network overwrites it.
    """

    gates_flow: bool = False
    separate_views: bool = False
    copied: bool = False

    def gates(self, model: nn.Module, rules: Mapping[Any, Rule]) -> FrozenGates:
        """The interception in this manner."""
        return FrozenGates(model, rules, flowing=self.gates_flow, separate_views=self.separate_views)

    def after(self, error: Exception) -> Manner:
        """The manner to try after this error.

        Raises:
            Exception: the error itself; there is nothing more to try.
        """
        if isinstance(error, SharedViews) and not self.separate_views:
            return replace(self, separate_views=True)
        if isinstance(error, NothingFlows) and not self.gates_flow:
            return replace(self, gates_flow=True)
        if "modified by an inplace operation" in str(error) and not self.copied:
            return replace(self, copied=True)
        raise error
