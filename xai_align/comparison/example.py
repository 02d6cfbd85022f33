"""One image of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from xai_align._tools.files.legible import legible
from xai_align.question import Question


@dataclass(kw_only=True)
class Example:
    """One image: the model's input, its logits, the question, the label and boxes.

    ``positions``: where in the photograph the input's pixels lie, see
    :func:`~xai_align.data.outside_scores.photograph_positions`; None if no scores from outside need it.
    """

    path: Path
    input: Tensor
    boxes: Tensor | None = None
    mask: Tensor | None = None
    label: int | None = None
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    question: Question | None = None
    positions: Tensor | None = None

    @property
    def name(self) -> str:
        """The path as text that can be printed and written."""
        return legible(self.path)


def inputs_of(examples: Sequence[Example]) -> Tensor:
    """Return the inputs ``[N, C, H, W]``."""
    return torch.stack([example.input for example in examples])
