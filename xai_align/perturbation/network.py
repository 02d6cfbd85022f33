"""Evaluation of the network on perturbed inputs: in batches, to probabilities, optionally in mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from xai_align._tools.batches import check_rows, rows_of
from xai_align._tools.logits import select_logits
from xai_align.features.hidden_layers import LayerHooks
from xai_align.features.run_with_features import cloned

#: Function from logits to probabilities; "auto": softmax, or sigmoid for a single output; None: raw outputs.
#: "relative": raw outputs too, whose changes are measured relative to those for the clean and the empty input.
Activation = Literal["auto", "softmax", "sigmoid", "relative"] | None


@dataclass
class Network:
    """Network with the settings shared by all passes; calling it returns outputs ``[M, K]``."""

    forward_func: Callable[..., Tensor]
    extra: tuple[Any, ...]
    num_examples: int
    activation: Activation
    autocast: torch.dtype | None
    hooks: LayerHooks | None
    batch_size: int
    memory_format: torch.memory_format = torch.contiguous_format

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return outputs ``[M, K]`` for perturbed inputs of these rows of the caller's batch."""
        check_rows(self.extra, len(rows), self.num_examples)
        extra = rows_of(self.extra, rows, self.num_examples)
        x = x.clone(memory_format=self.memory_format)  # the network may write into it
        with torch.autocast(x.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            out = select_logits(self.forward_func(x, *cloned(extra)))
        if not isinstance(out, Tensor) or out.dim() not in (1, 2) or len(out) != len(x):
            found = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"the network gave {found} for {len(x)} inputs; logits [N, K] are needed")
        out = out.reshape(len(x), -1)
        return self._activated(out.float() if out.dtype in (torch.float16, torch.bfloat16) else out)

    def _activated(self, logits: Tensor) -> Tensor:
        if self.activation in (None, "relative"):
            return logits
        if self.activation == "sigmoid" or (self.activation == "auto" and logits.shape[1] == 1):
            return logits.sigmoid()
        if logits.shape[1] == 1:
            raise ValueError("the softmax of one output is always 1; use activation='sigmoid'")
        return logits.softmax(1)
