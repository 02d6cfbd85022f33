"""Options of an ALIGN trainer that are rarely changed, with their defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xai_align.align.saliency import Normalise, Order
from xai_align.align.training.phases import Alternation
from xai_align.align.training.reading import ReadBatch
from xai_align.align.training.settings import Keep, MakeOptimizer, OnCollapse, Precision, Resume, Schedule
from xai_align.training.training_log import Row


@dataclass(frozen=True, kw_only=True)
class AlignOptions:
    """Options of :class:`~xai_align.align.AlignTrainer`; each can also be given to it by keyword.

    Attributes:
        order: "first": the CAM's channel weights are constants for the gradient; "second": it goes through them.
        normalise: how a CAM comes to [0, 1], see :func:`~xai_align.align.saliency.normalised`: "max", "minmax", or
            "signed", with which no CAM can die.
        warmup_steps: how long the classifier trains alone, beside the trainer's ``warmup_epochs``.
        masker_only_steps: how long the masker trains alone, beside ``masker_only_epochs``.
        alternation: "batch": the masker steps on every ``masker_every``-th batch, before the classifier and on the same
            batch; every second one by default, which costs less. "epoch": ``masker_epochs`` epochs of the masker, then
            ``classifier_epochs`` of the classifier.
        masker_every, masker_epochs, classifier_epochs: see there.
        weight_decay: of the classifier's AdamW.
        schedule: of both learning rates. "cosine": to zero over all epochs.
        classifier_optimizer, masker_optimizer: make other optimisers, each from a list of parameters.
        gradient_clip: the largest norm of a network's gradient; None: any.
        freeze_batch_norm: BatchNorm keeps the statistics it has, as DRE does.
        on_collapse: what is done when masks are nearly full, empty or flat for an epoch. "area": the area that they may
            keep falls to 0.35 in four epochs (empty ones are asked to keep a tenth); "sparsity": the weight of the
            sparsity is doubled, or halved, every epoch; "warn": nothing but the warning, which comes in any case.
        keep: the weights that both have in the end: of the "best" validation accuracy among epochs in which both
            took turns, or the "last".
        patience: stop after so many of these validations without a better accuracy.
        read_batch: turns what a loader yields into ``(images, labels)``, ``(images, labels, masks)`` or a
            :class:`~xai_align.align.views.batch.TrainingBatch`.
        mixed_precision: "no", "bf16" or, on GPUs, "fp16". CAMs and losses are float32 in any case.
        gradient_accumulation_steps: how many of the loader's batches make a step, one forward pass each. Partners for
            mixing come from all of them.
        resume: what happens if ``out`` holds a checkpoint. "auto": go on; "must": go on, or raise if there is none;
            "never": raise, so that nothing is overwritten.
        figure_every: draw image, CAM and mask of some examples after every so many epochs, into ``out/figures``.
        normalization: ``(mean, std)`` of the images' channels, to show them in figures.
        log: called with every new row.

    Example::

        AlignTrainer(model, options=AlignOptions(schedule="cosine", gradient_clip=None))
    """

    order: Order = "first"
    normalise: Normalise = "max"
    warmup_steps: int = 0
    masker_only_steps: int = 0
    alternation: Alternation = "batch"
    masker_every: int = 2
    masker_epochs: int = 1
    classifier_epochs: int = 1
    weight_decay: float = 0.0
    schedule: Schedule = "none"
    classifier_optimizer: MakeOptimizer | None = None
    masker_optimizer: MakeOptimizer | None = None
    gradient_clip: float | None = 1.0
    freeze_batch_norm: bool = False
    on_collapse: OnCollapse = "area"
    keep: Keep = "best"
    patience: int | None = None
    read_batch: ReadBatch | None = None
    mixed_precision: Precision = "no"
    gradient_accumulation_steps: int = 1
    resume: Resume = "auto"
    figure_every: int | None = None
    normalization: tuple[Sequence[float], Sequence[float]] | None = None
    log: Callable[[Row], None] | None = None
