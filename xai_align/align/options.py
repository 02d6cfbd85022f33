"""Options of an ALIGN trainer that are rarely changed, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from xai_align._tools.checks import check_choice, check_integer, check_number
from xai_align.align.saliency import Normalise, Order
from xai_align.align.saliency_of_readouts import Saliency
from xai_align.align.training.batch_validation import ReadBatch
from xai_align.align.training.phases import Alternation
from xai_align.training.choices import MakeOptimizer
from xai_align.training.options import TrainingOptions

Schedule = Literal["none", "cosine", "cosine_each"]
OnCollapse = Literal["area", "sparsity", "warn"]
_CHOICES = {
    "saliency": Saliency,
    "order": Order,
    "normalise": Normalise,
    "schedule": Schedule,
    "on_collapse": OnCollapse,
    "alternation": Alternation,
}


@dataclass(frozen=True, kw_only=True)
class AlignOptions(TrainingOptions):
    """Options of :class:`~xai_align.align.AlignTrainer`; each can also be given to it by keyword.

    Attributes:
        saliency: the map that is aligned with the mask. "gradcam": the label's Grad-CAM. "readout": the exact readout
            of its logit, signed, with its whole gradient; see :mod:`~xai_align.align.saliency_of_readouts`.
        order: (Grad-CAM only) "first": the CAM's channel weights are constants for the gradient; "second": it goes
            through them.
        normalise: how a CAM is scaled to [0, 1], see :func:`~xai_align.align.saliency.normalised`: "max", "minmax", or
            "signed", with which no CAM can become permanently zero.
        warmup_steps: steps of the classifier alone, in addition to the trainer's ``warmup_epochs``.
        masker_only_steps: steps of the masker alone, in addition to ``masker_only_epochs``.
        alternation: "batch": the masker steps on every ``masker_every``-th batch, before the classifier and on the same
            batch; every second one by default, which is cheaper. "epoch": ``masker_epochs`` epochs of the masker, then
            ``classifier_epochs`` of the classifier.
        masker_every, masker_epochs, classifier_epochs: see ``alternation``.
        weight_decay: of the classifier's AdamW.
        schedule: of both learning rates. "cosine": to zero over all epochs. "cosine_each": each to zero over its own
            network's steps, so that epochs of the masker alone do not shorten the classifier's schedule.
        classifier_optimizer, masker_optimizer: functions from a list of parameters to another optimiser.
        gradient_clip: maximum norm of a network's gradient; None: no clipping.
        freeze_batch_norm: keep BatchNorm's statistics, as DRE does.
        on_collapse: response to masks that are nearly full, empty or flat for an epoch. "area": limit their area,
            falling to 0.35 in four epochs (empty masks: at least a tenth); "sparsity": double or halve the weight of
            the sparsity every epoch; "warn": only the warning, which is issued in any case.
        keep: final weights of both networks: those of the "best" validation accuracy among epochs in which both
            trained, or the "last".
        patience: stop after this many of these validations without improvement.
        read_batch: converts a batch of the loader to ``(images, labels)``, ``(images, labels, masks)`` or a
            :class:`~xai_align.align.forward_passes.training_batch.TrainingBatch`.
        mixed_precision: "no", "bf16" or, on GPUs, "fp16". CAMs and losses are float32 in any case.
        gradient_accumulation_steps: batches of the loader per step, one forward pass each. Partners for mixing come
            from all of them.
        resume: behaviour if ``out`` holds a checkpoint. "auto": resume; "must": resume, or raise if there is none;
            "never": raise, so that nothing is overwritten.
        figure_every: epochs between figures of image, CAM and mask of some examples, in ``out/figures``.
        normalization: ``(mean, std)`` of the images' channels, for the figures.
        log: called with every new row of the log.

    Example::

        AlignTrainer(model, options=AlignOptions(schedule="cosine", gradient_clip=None))
    """

    saliency: Saliency = "gradcam"
    order: Order = "first"
    normalise: Normalise = "max"
    warmup_steps: int = 0
    masker_only_steps: int = 0
    alternation: Alternation = "batch"
    masker_every: int = 2
    masker_epochs: int = 1
    classifier_epochs: int = 1
    schedule: Schedule = "none"
    classifier_optimizer: MakeOptimizer | None = None
    masker_optimizer: MakeOptimizer | None = None
    gradient_clip: float | None = 1.0
    freeze_batch_norm: bool = False
    on_collapse: OnCollapse = "area"
    read_batch: ReadBatch | None = None
    figure_every: int | None = None
    normalization: tuple[Sequence[float], Sequence[float]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choice in _CHOICES.items():
            check_choice(name, getattr(self, name), get_args(choice))
        for name in ("warmup_steps", "masker_only_steps"):
            check_integer(name, getattr(self, name), least=0)
        for name in ("masker_every", "masker_epochs", "classifier_epochs"):
            check_integer(name, getattr(self, name))
        if self.figure_every is not None:
            check_integer("figure_every", self.figure_every)
        if self.gradient_clip is not None:
            check_number("gradient_clip", self.gradient_clip, above=0)
