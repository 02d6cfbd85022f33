"""Figures during a fit: images with their CAMs and masks."""

from __future__ import annotations

import torch

from xai_align._tools.model_state import evaluating
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.look import look
from xai_align.align.saliency import saliency_at
from xai_align.align.training.fitted import Fitted
from xai_align.align.training.micro_batches import on_device

#: Number of examples in a figure.
SHOWN = 6


class Figures:
    """Figures of some examples every few epochs, in ``out/figures/epoch-003.png``.

    Args:
        trainer: has the interval and the folder.
        batch: its first images are shown.
    """

    def __init__(self, trainer: Fitted, batch: TrainingBatch) -> None:
        self._trainer = trainer
        self._batch = TrainingBatch(images=batch.images[:SHOWN].clone(), labels=batch.labels[:SHOWN].clone())

    def after(self, epoch: int) -> None:
        """Draw a figure if it is due after this epoch."""
        trainer, every = self._trainer, self._trainer.settings.figure_every
        if every is None or trainer.out is None or epoch % every:
            return
        from xai_align._tools.png import png
        from xai_align.align.figure import align_figure

        network, masker, space = trainer.bench.network, trainer.masker, trainer.space
        assert space is not None
        batch = on_device(self._batch, trainer.bench.device)
        with evaluating(network):
            seen = look(network, batch.images, space)
            cams = saliency_at(seen, batch.labels, how=trainer.settings.normalise).detach()
        masks = None
        if masker is not None:
            with torch.no_grad(), evaluating(masker):
                masks = masker(batch.images).float().cpu()
        figure = align_figure(
            batch.images.detach().float().cpu(),
            cams.cpu(),
            masks,
            titles=[f"class {label}" for label in batch.labels.tolist()],
            normalization=trainer.normalization,
        )
        folder = trainer.out / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"epoch-{epoch:03d}.png").write_bytes(png(figure))
