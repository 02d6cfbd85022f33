"""Options of a fit of amortised FEI that are rarely changed, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xai_align._tools.checks import check_integer, check_number
from xai_align.fei.curve_search import check_temperatures
from xai_align.fei.random_fills import KINDS
from xai_align.training.options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class FitFEIOptions(TrainingOptions):
    """Options of :func:`~xai_align.fei.fit_fei`; each can also be given to it by keyword.

    Attributes:
        width, depth: of the :class:`~xai_align.fei.ScoreNetwork`.
        validation_share: the share of the images that is held out, if no validation images are given and there are ten
            or more.
        runner_up: the share of the steps' images whose question is about the second most probable class, so that the
            network's maps depend on the question.
        fills: kinds of :func:`~xai_align.fei.random_fills.random_fills`.
        temperatures: ``tau`` at the first and the last step, in standard deviations of the map.
        deviation_weight: ``w``; 0 turns the deviation of hidden layers off.
        weight_decay: of AdamW.
        keep: final weights: the "best" by the loss on held-out images, or the "last". If no epoch is better than the
            readout's maps, the best are the initial ones, which give these.
        patience: stop after this many validations without improvement.
        mixed_precision: "no" or "bf16", of the explained network's passes.
        gradient_accumulation_steps: number of forward passes whose gradients are accumulated for a step.
        resume: behaviour if ``out`` holds a checkpoint. "auto": resume; "must": resume, or raise if there is none;
            "never": raise, so that nothing is overwritten.
        log: called with every new row of the log.

    Raises:
        ValueError: an option is out of range.

    Example::

        options = FitFEIOptions(width=16, patience=3)
        fit_fei(model, torch.rand(12, 3, 32, 32), epochs=2, batch_size=4, options=options)
    """

    width: int = 32
    depth: int = 2
    validation_share: float = 0.1
    runner_up: float = 0.25
    fills: Sequence[str] = KINDS
    temperatures: tuple[float, float] = (0.5, 0.15)
    deviation_weight: float = 1.0
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("width", self.width)
        check_integer("depth", self.depth)
        check_number("validation_share", self.validation_share, below=1)
        check_number("runner_up", self.runner_up, most=1)
        check_number("deviation_weight", self.deviation_weight)
        check_temperatures(self.temperatures)
        if self.mixed_precision == "fp16":
            raise ValueError("mixed_precision of fit_fei is 'no' or 'bf16', got 'fp16'")
