"""Result of an ALIGN fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from xai_align.training.training_log import Row


@dataclass(frozen=True, kw_only=True)
class AlignFit:
    """Result of a fit by :class:`~xai_align.align.AlignTrainer`: the networks and the history of their training.

    Attributes:
        classifier: the given module, with the weights selected by ``keep``.
        masker: likewise the masker; None if the recipe trains none.
        best: the row of the best validation among the epochs in which both networks trained; None without validation.
        history: one row per epoch. Losses, terms and mask statistics are means over the epoch's steps; None where
            nothing was measured.
        epochs, steps: numbers of epochs and steps, including those before a resumption.
        stopped: "epochs": all epochs ran. "patience": validation stopped improving.
        seconds: time for training and validation, including the time before a resumption.
        notes: remarks on the fit, e.g. limits of reproducibility.
        out: folder with checkpoints and metrics.

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
