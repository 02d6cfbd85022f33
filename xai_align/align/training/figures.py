"""Figures during a fit: images with their CAMs and masks."""

from __future__ import annotations

from pathlib import Path

import torch

from xai_align._tools.files.whole_file import write_whole
from xai_align._tools.model_state import evaluating
from xai_align.align.forward_passes.label_saliency import LabelSaliency
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.training.micro_batches import on_device
from xai_align.align.training.trainer_state import TrainerState

#: Number of examples in a figure.
SHOWN = 6


def draw_figure(trainer: TrainerState, examples: TrainingBatch, path: Path) -> None:
    """Write a PNG of the first examples with their CAMs and, if there is a masker, their masks."""
    from xai_align._tools.png import png
    from xai_align.align.figure import align_figure

    network, masker = trainer.network, trainer.masker
    assert trainer.space is not None
    first = TrainingBatch(images=examples.images[:SHOWN], labels=examples.labels[:SHOWN])
    batch = on_device(first, trainer.device)
    with evaluating(network):
        settings = trainer.settings
        of_labels = LabelSaliency(
            classifier=network, space=trainer.space, kind=settings.saliency, normalise=settings.normalise
        )
        cams = of_labels.normalised(batch.images, batch.labels, lambda: of_labels.capture(batch.images)).detach()
    masks = None
    if masker is not None:
        with torch.no_grad(), evaluating(masker):
            masks = masker(batch.images.clone()).float().cpu()
    figure = align_figure(
        batch.images.detach().float().cpu(),
        cams.cpu(),
        masks,
        titles=[f"class {label}" for label in batch.labels.tolist()],
        normalization=trainer.settings.normalization,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, png(figure))
