"""Options of a PiNet's fit that are rarely changed, with their defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xai_align.training.pinet.batches import Teacher
from xai_align.training.pinet.settings import Keep, MakeOptimizer, Precision, Resume, Schedule
from xai_align.training.training_log import Row


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of :func:`~xai_align.training.fit_pinet`; each can also be given to it by keyword.

    Attributes:
        betas, weight_decay: of AdamW, which without weight decay is Adam; the defaults are the paper's.
        schedule: of the learning rate. "none"; "cosine": to zero over all epochs; "plateau": a fifth of it after
            five epochs without a lower (validation) loss, the end at 1e-5, as the paper's flood model.
        optimizer: makes another optimiser from the list of parameters; the rates are then not looked at.
        resume: what happens if ``out`` holds a checkpoint. "auto": go on; "must": go on, or raise if there is none;
            "never": raise, so that nothing is overwritten.
        patience: stop after so many validations without a better metric.
        stop_at: stop when a validation's metric is at least this good (an error: at most this).
        validate_every: validate after so many steps of an epoch too, and not at its end only.
        keep: which weights the model has in the end: the "best" of all validations (the higher metric; among equals the
            lower validation loss), or the "last".
        teacher: images to logits ``[N, K]``, for distillation; None: the model's own backbone, if that is frozen.
        mixed_precision: "no", "bf16" or, on GPUs, "fp16". The losses are float32 in any case.
        gradient_accumulation_steps: forward passes whose gradients are added up for a step.
        num_workers: processes that load data.
        log: called with every new row.

    Example::

        train = torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 2)
        options = FitOptions(schedule="plateau", gradient_accumulation_steps=2)
        loss = PiNetLoss("multiclass")
        fit_pinet(conv_pinet(2, in_channels=3), train, loss=loss, epochs=2, batch_size=4, options=options)
    """

    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    schedule: Schedule = "none"
    optimizer: MakeOptimizer | None = None
    resume: Resume = "auto"
    patience: int | None = None
    stop_at: float | None = None
    validate_every: int | None = None
    keep: Keep = "best"
    teacher: Teacher | None = None
    mixed_precision: Precision = "no"
    gradient_accumulation_steps: int = 1
    num_workers: int = 0
    log: Callable[[Row], None] | None = None
