"""What comes of an ALIGN fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from xai_align.training.training_log import Row


@dataclass(frozen=True, kw_only=True)
class AlignFit:
    """A classifier, its masker, and how they came about.

    Attributes:
        classifier: the one that was given; it has the weights that were asked for (``keep``).
        masker: the same of the masker; None where the recipe trains none.
        best: the row of the best validation among epochs in which both took turns; None without one.
        history: a row for each epoch. Losses, terms and what is known of masks are means over the epoch's steps;
            None where nothing was measured.
        epochs, steps: how many there were, before a resumption too.
        stopped: "epochs": all were done. "patience": validation got no better.
        seconds: of training and validation, before a resumption too.
        notes: what should be known about the fit.
        out: the folder with checkpoints and metrics.

    Example::

        fit = AlignTrainer(model).fit(loader, epochs=1)
        fit.masker(images)  # [N, 1, H, W], in [0, 1]
        fit.history[-1]["loss"]  # mean over the last epoch
    """

    classifier: nn.Module = field(repr=False)
    masker: nn.Module | None = field(repr=False)
    best: Row | None
    history: list[Row] = field(repr=False)
    epochs: int
    steps: int
    stopped: str
    seconds: float
    notes: tuple[str, ...] = ()
    out: Path | None = None
