"""Options of an ALIGN fit, checked once, and the configuration that identifies a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xai_align._tools.checks import check_integer, check_number
from xai_align.align.options import AlignOptions
from xai_align.align.recipe_record import Recipe, needs_mask_source
from xai_align.align.training.phases import Plan
from xai_align.training.description import described_optimizer, described_parameters

#: Options that two runs must share for one to resume the other.
_IDENTIFYING = (
    *("order", "normalise", "schedule", "gradient_clip", "gradient_accumulation_steps", "freeze_batch_norm"),
    *("on_collapse", "keep", "patience", "seed", "mixed_precision"),
)


@dataclass(frozen=True, kw_only=True)
class AlignSettings(AlignOptions):
    """All options of a trainer, checked; see :class:`~xai_align.align.trainer.AlignTrainer`."""

    warmup_epochs: int
    masker_only_epochs: int
    learning_rate: float
    masker_learning_rate: float
    seed: int
    out: Path | None
    show_progress: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("warmup_epochs", "masker_only_epochs", "seed"):
            check_integer(name, getattr(self, name), least=0)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("masker_learning_rate", self.masker_learning_rate, above=0)

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


def plan_of(settings: AlignSettings, recipe: Recipe) -> Plan:
    """Return the schedule of the phases."""
    return Plan(
        warmup_epochs=settings.warmup_epochs,
        warmup_steps=settings.warmup_steps,
        masker_only_epochs=settings.masker_only_epochs,
        masker_only_steps=settings.masker_only_steps,
        alternation=settings.alternation,
        masker_every=settings.masker_every,
        masker_epochs=settings.masker_epochs,
        classifier_epochs=settings.classifier_epochs,
        with_masker=recipe.trains_masker,
        with_mask_source=any(map(needs_mask_source, recipe.terms)),
    )


def configuration(
    settings: AlignSettings,
    *,
    plan: Mapping[str, Any],
    recipe: Mapping[str, Any],
    optimizers: Mapping[str, torch.optim.Optimizer],
    trained: Mapping[str, nn.Parameter],
    target_layer: str | None,
    **of_the_fit: Any,
) -> dict[str, Any]:
    """Return the configuration that two runs must share for one to resume the other, in JSON types."""
    kinds = {name: described_optimizer(one, leave_out=("lr",)) for name, one in optimizers.items()}
    return {
        "recipe": dict(recipe),
        "target_layer": target_layer,
        "plan": dict(plan),
        "optimizers": kinds,
        "trained": described_parameters(trained),
        **{name: getattr(settings, name) for name in _IDENTIFYING},
        # a checkpoint without it is of Grad-CAM
        **({} if settings.saliency == "gradcam" else {"saliency": settings.saliency}),
        **of_the_fit,
    }
