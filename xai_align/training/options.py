"""Options that every fit has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from xai_align._tools.checks import check_choice, check_integer, check_number
from xai_align.training.choices import Keep, Precision, Resume
from xai_align.training.training_log import Row


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of every fit; the subclasses document them."""

    weight_decay: float = 0.0
    keep: Keep = "best"
    patience: int | None = None
    mixed_precision: Precision = "no"
    gradient_accumulation_steps: int = 1
    resume: Resume = "auto"
    log: Callable[[Row], None] | None = None

    def __post_init__(self) -> None:
        check_choice("keep", self.keep, get_args(Keep))
        check_choice("mixed_precision", self.mixed_precision, get_args(Precision))
        check_choice("resume", self.resume, get_args(Resume))
        check_integer("gradient_accumulation_steps", self.gradient_accumulation_steps)
        if self.patience is not None:
            check_integer("patience", self.patience)
        check_number("weight_decay", self.weight_decay)
