"""Options of a PiNet's fit that are rarely changed, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from xai_align._tools.checks import check_choice, check_integer
from xai_align.training.choices import MakeOptimizer
from xai_align.training.options import TrainingOptions
from xai_align.training.pinet.batches import Teacher

Schedule = Literal["none", "cosine", "plateau"]


@dataclass(frozen=True, kw_only=True)
class FitOptions(TrainingOptions):
    """Options of :func:`~xai_align.training.fit_pinet`; each can also be given to it by keyword.

    Attributes:
        betas, weight_decay: of AdamW, which without weight decay is Adam; the defaults are the paper's.
        schedule: of the learning rate. "none"; "cosine": to zero over all epochs; "plateau": divided by five after five
            epochs without a lower (validation) loss, stopping below 1e-5, as for the paper's flood model.
        optimizer: function from the list of parameters to another optimiser; the learning rate is then ignored.
        resume: behaviour if ``out`` holds a checkpoint. "auto": resume; "must": resume, or raise if there is none;
            "never": raise, so that nothing is overwritten.
        patience: stop after this many validations without improvement.
        stop_at: stop when a validation's metric is at least this good (for an error: at most this).
        validate_every: number of steps between validations within an epoch, in addition to its end.
        keep: final weights of the model: the "best" of all validations (by the metric; ties go to the lower validation
            loss), or the "last".
        teacher: images to logits ``[N, K]``, for distillation; None: the model's own backbone, if that is frozen.
        mixed_precision: "no", "bf16" or, on GPUs, "fp16". The losses are float32 in any case.
        gradient_accumulation_steps: number of forward passes whose gradients are accumulated for a step.
        num_workers: number of data loading processes.
        log: called with every new row of the log.

    Example::

        train = torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 2)
        options = FitOptions(schedule="plateau", gradient_accumulation_steps=2)
        loss = PiNetLoss("multiclass")
        fit_pinet(conv_pinet(2, in_channels=3), train, loss=loss, epochs=2, batch_size=4, options=options)
    """

    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Schedule = "none"
    optimizer: MakeOptimizer | None = None
    stop_at: float | None = None
    validate_every: int | None = None
    teacher: Teacher | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("schedule", self.schedule, get_args(Schedule))
        if self.validate_every is not None:
            check_integer("validate_every", self.validate_every)
