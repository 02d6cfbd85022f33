"""Interface of a trainer that a fit uses; the trainer itself is built on the fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from xai_align.align.training.settings import AlignSettings
from xai_align.align.training.trainer_state import TrainerState
from xai_align.hookspecs import FeatureSpace
from xai_align.training.training_log import Row


class Fitted(Protocol):
    """Protocol for networks, options and callbacks of an :class:`~xai_align.align.AlignTrainer`."""

    bench: TrainerState
    settings: AlignSettings
    out: Path | None
    read_batch: Any
    log: Callable[[Row], None] | None
    show_progress: bool
    normalization: tuple[Sequence[float], Sequence[float]] | None

    @property
    def classifier(self) -> nn.Module:
        """The given classifier."""

    @property
    def masker(self) -> nn.Module | None:
        """The masker; None until the first batch, if none was given."""

    @property
    def space(self) -> FeatureSpace | None:
        """Feature space of the CAM; None until the first batch."""
