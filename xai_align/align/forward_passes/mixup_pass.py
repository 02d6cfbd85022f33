"""Images mixed with others of their class, for DRE's regulariser."""

from __future__ import annotations

from functools import cached_property
from math import floor

import torch
from torch import Tensor

from xai_align._tools.drawn import uniform
from xai_align.align.captured_pass import CapturedPass
from xai_align.align.forward_passes.label_saliency import LabelSaliency
from xai_align.align.forward_passes.side_pass import batch_statistics_preserved
from xai_align.align.forward_passes.step_random import StepRandom
from xai_align.align.forward_passes.training_batch import GlobalBatch
from xai_align.align.mixup_regulariser import mixed, mixing_shares, same_class_partners


class MixupPass:
    """Mixtures ``lam * image + (1 - lam) * partner`` of some or all images of a batch.

    Partners come from all examples of the step. The CAM of a partner in another process
    is computed here again, so that gradients are those of one process.

    Attributes:
        rows: ``[n]``, int64: indices of the mixed images in the batch.
        partners: ``[n]``, int64: indices of their partners in the step.
        lam: ``[n]``, in the images' dtype: the image's own share.
        images: ``[n, C, H, W]``.
        labels: ``[n]``, int64.
        scale: factor that turns a sum over the step's mixed images into one over all its images.
    """

    def __init__(
        self,
        global_batch: GlobalBatch,
        local: slice,
        draws: StepRandom,
        of_labels: LabelSaliency,
        *,
        alpha: float,
        share: float,
    ) -> None:
        self._global_batch, self._local, self._of_labels = global_batch, local, of_labels
        total, device = len(global_batch.labels), global_batch.images.device
        draw = draws.generator("mixup")
        partners = same_class_partners(global_batch.labels, draw).to(device)
        lam = mixing_shares(total, alpha, draw).to(global_batch.images)
        chosen = _every_so_often(total, share, uniform((), draw).item())
        places = torch.tensor([i for i in chosen if local.start <= i < local.stop], dtype=torch.int64, device=device)
        self.rows = places - local.start
        self.partners, self.lam = partners[places], lam[places]
        self.images = mixed(global_batch.images, partners, lam)[places]
        self.labels = global_batch.labels[places]
        self.scale = total / max(len(chosen), 1)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def seen(self) -> CapturedPass:
        """Forward pass of the mixed images."""
        return self._capture(self.images)

    @cached_property
    def saliency(self) -> Tensor:
        """Normalised CAMs of the mixed images, ``[n, 1, h, w]`` in [0, 1]."""
        return self._of_labels.normalised(self.images, self.labels, lambda: self.seen)

    def partners_saliency(self, saliency: Tensor) -> Tensor:
        """Return the normalised CAMs of the unmixed partners, ``[n, 1, h, w]``.

        Args:
            saliency: ``[N, 1, h, w]``: normalised CAMs of the batch.
        """
        if len(saliency) == len(self._global_batch.labels):
            return saliency[self.partners]
        elsewhere = (self.partners < self._local.start) | (self.partners >= self._local.stop)
        found = saliency[(self.partners - self._local.start).clamp(0, len(saliency) - 1)]
        if not elsewhere.any():
            return found
        away = self.partners[elsewhere]
        images, labels = self._global_batch.images[away], self._global_batch.labels[away]
        theirs = self._of_labels.normalised(images, labels, lambda: self._capture(images))
        return found.index_put((elsewhere.nonzero().squeeze(1),), theirs)

    def _capture(self, images: Tensor) -> CapturedPass:
        with batch_statistics_preserved(self._of_labels.classifier):
            return self._of_labels.capture(images)


def _every_so_often(count: int, share: float, start: float) -> list[int]:
    """Return a share of the numbers below ``count``, evenly spaced, so that every process has its part of them."""
    return [index for index in range(count) if floor((index + 1) * share + start) > floor(index * share + start)]
