"""Modes of recording a pass, and the order in which they are tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from xai_align._tools.saved_copies import is_overwriting
from xai_align._tools.thread_state import hides_interrupt
from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.rule_registry import Rule
from xai_align.pinet.gates.written_tensors import SharedViews
from xai_align.pinet.recording import NothingFlows


@dataclass(frozen=True)
class RecordingMode:
    """Mode of recording a pass; each further mode is tried where the previous one fails.

    Attributes:
        gates_flow: gates are treated as activations.
        separate_views: each view that the network writes into gets its own base tensor.
        copied: tensors that autograd saves are copied, because the network overwrites them.
    """

    gates_flow: bool = False
    separate_views: bool = False
    copied: bool = False

    def gates(self, model: nn.Module, rules: Mapping[Any, Rule]) -> FrozenGates:
        """Return the interception for this mode."""
        return FrozenGates(model, rules, flowing=self.gates_flow, separate_views=self.separate_views)

    def after(self, error: Exception) -> RecordingMode:
        """Return the mode to try after this error.

        Raises:
            Exception: the error itself, if no mode is left.
        """
        if hides_interrupt(error):
            raise error
        if isinstance(error, SharedViews) and not self.separate_views:
            return replace(self, separate_views=True)
        if isinstance(error, NothingFlows) and not self.gates_flow:
            return replace(self, gates_flow=True)
        if is_overwriting(error) and not self.copied:
            return replace(self, copied=True)
        raise error
