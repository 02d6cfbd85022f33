"""Options that every fit has, and checks of options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

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
        check_choices(self, {"keep": Keep, "mixed_precision": Precision, "resume": Resume})
        check_whole("gradient_accumulation_steps", self.gradient_accumulation_steps)
        check_whole("patience", self.patience)
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; give zero or a positive number")


def check_choices(options: Any, choices: Mapping[str, Any]) -> None:
    """Raise ValueError if a field of the options is none of the values of its ``Literal``."""
    for name, choice in choices.items():
        if (value := getattr(options, name)) not in get_args(choice):
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(get_args(choice))}")


def check_whole(name: str, value: Any, at_least: int = 1) -> None:
    """Raise ValueError if a value is neither None nor a whole number of at least ``at_least``."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < at_least):
        raise ValueError(f"{name} is {value!r}; give a whole number of at least {at_least}")


def check_positive(name: str, value: float | None) -> None:
    """Raise ValueError if a value is neither None nor a finite number above zero."""
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; give a positive number")
