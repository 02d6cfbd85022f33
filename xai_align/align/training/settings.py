"""Options of an ALIGN fit, checked once, and the configuration that identifies a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from xai_align.align.saliency import Normalise, Order
from xai_align.align.training.phases import Alternation, Plan
from xai_align.training.choices import Keep, MakeOptimizer, Precision, Resume
from xai_align.training.description import described_optimizer, described_parameters

Schedule = Literal["none", "cosine"]
OnCollapse = Literal["area", "sparsity", "warn"]

_CHOICES: Mapping[str, Any] = {
    "order": Order,
    "normalise": Normalise,
    "schedule": Schedule,
    "mixed_precision": Precision,
    "on_collapse": OnCollapse,
    "keep": Keep,
    "resume": Resume,
    "alternation": Alternation,
}


@dataclass(frozen=True, kw_only=True)
class AlignSettings:
    """Checked options of a fit; see :class:`~xai_align.align.trainer.AlignTrainer`."""

    order: Order
    normalise: Normalise
    plan: Plan
    learning_rate: float
    masker_learning_rate: float
    weight_decay: float
    schedule: Schedule
    classifier_optimizer: MakeOptimizer | None
    masker_optimizer: MakeOptimizer | None
    gradient_clip: float | None
    freeze_batch_norm: bool
    on_collapse: OnCollapse
    keep: Keep
    patience: int | None
    seed: int
    mixed_precision: Precision
    passes: int
    resume: Resume
    figure_every: int | None

    def __post_init__(self) -> None:
        for name, choice in _CHOICES.items():
            value = getattr(self.plan if name == "alternation" else self, name)
            if value not in get_args(choice):
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(get_args(choice))}")
        for name in ("warmup_epochs", "warmup_steps", "masker_only_epochs", "masker_only_steps"):
            _whole(name, getattr(self.plan, name), at_least=0)
        for name in ("masker_every", "masker_epochs", "classifier_epochs"):
            _whole(name, getattr(self.plan, name), at_least=1)
        _whole("gradient_accumulation_steps", self.passes, at_least=1)
        _whole("seed", self.seed, at_least=0)
        for name in ("patience", "figure_every"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), at_least=1)
        for name in ("learning_rate", "masker_learning_rate"):
            _positive(name, getattr(self, name))
        if self.gradient_clip is not None:
            _positive("gradient_clip", self.gradient_clip)
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; give zero or a positive number")

    def optimizer_of_classifier(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the classifier's optimiser: AdamW by default."""
        if self.classifier_optimizer is not None:
            return checked_optimizer(self.classifier_optimizer(parameters), parameters, "classifier_optimizer")
        return torch.optim.AdamW(parameters, self.learning_rate, weight_decay=self.weight_decay)

    def optimizer_of_masker(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the masker's optimiser: Adam by default, as weight decay is for the classifier only."""
        if self.masker_optimizer is not None:
            return checked_optimizer(self.masker_optimizer(parameters), parameters, "masker_optimizer")
        return torch.optim.Adam(parameters, self.masker_learning_rate)

    def learning_rate_factor(self, progress: float) -> float:
        """Return the schedule's factor of the learning rate at ``progress`` (0 to 1) of the fit."""
        if self.schedule == "none":
            return 1.0
        return (1 + math.cos(math.pi * min(progress, 1.0))) / 2  # from the full rate to zero over half a period


def checked_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], name: str
) -> torch.optim.Optimizer:
    """Return the optimiser that a caller's function made, checked.

    Raises:
        TypeError: it made something else.
        ValueError: it has other parameters.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"{name} gave a {type(optimizer).__name__}; it must give a torch.optim.Optimizer")
    known = {id(p) for p in parameters}
    if any(id(p) not in known for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            f"{name} gave an optimiser over other parameters; make it over the list that it is called with"
        )
    return optimizer


def configuration(
    settings: AlignSettings,
    *,
    recipe: Mapping[str, Any],
    optimizers: Mapping[str, torch.optim.Optimizer],
    trained: Mapping[str, nn.Parameter],
    target_layer: str | None,
    **of_the_fit: Any,
) -> dict[str, Any]:
    """Return the configuration that two runs must share for one to resume the other, in JSON types."""
    plan = {name: getattr(settings.plan, name) for name in settings.plan.__dataclass_fields__}
    return {
        "recipe": dict(recipe),
        "target_layer": target_layer,
        "order": settings.order,
        "normalise": settings.normalise,
        "plan": plan,
        "optimizers": {
            name: described_optimizer(optimizer, leave_out=("lr",)) for name, optimizer in optimizers.items()
        },
        "schedule": settings.schedule,
        "gradient_clip": settings.gradient_clip,
        "gradient_accumulation_steps": settings.passes,
        "freeze_batch_norm": settings.freeze_batch_norm,
        "on_collapse": settings.on_collapse,
        "keep": settings.keep,
        "patience": settings.patience,
        "seed": settings.seed,
        "mixed_precision": settings.mixed_precision,
        "trained": described_parameters(trained),
        **of_the_fit,
    }


def _whole(name: str, value: Any, *, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name} is {value!r}; give a whole number of at least {at_least}")


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; give a positive number")
