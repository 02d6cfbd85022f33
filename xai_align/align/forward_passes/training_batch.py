"""Examples of a training step: images, labels, and optional masks and indices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xai_align._tools.counted import counted
from xai_align._tools.images import check_images


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Batch of examples for one forward pass of this process.

    Attributes:
        images: ``[N, C, H, W]``, floating point, as the classifier takes them.
        labels: ``[N]``, int64.
        masks: ``[N, 1, H, W]`` in [0, 1]: annotated evidence; NaN where unknown. None: there are none.
        indices: ``[N]``, int64: indices in the data set, for terms with a state per example. None: unknown.

    Raises:
        TypeError: images or labels have a wrong type.
        ValueError: shapes don't match.

    Example::

        batch = TrainingBatch(images=images, labels=labels, masks=torch.ones(2, 1, 32, 32))
        len(batch)  # 2
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None = None
    indices: Tensor | None = None

    def __post_init__(self) -> None:
        check_images("images", self.images, finite=False)
        count = len(self.images)
        _check_integers("labels", self.labels, count)
        if self.indices is not None:
            _check_integers("indices", self.indices, count)
        if self.masks is not None:
            _check_masks(self.masks, self.images)

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class GlobalBatch:
    """All examples of a step, over all processes and passes; a batch is a contiguous part of them.

    Partners, random numbers and class counts come from here, so that two processes
    give the same result as one with twice the batch.

    Attributes:
        images: ``[M, C, H, W]``.
        labels: ``[M]``, int64.
        start: index of the current batch's first example.
        masks: ``[M, 1, H, W]``, NaN where unknown, or None.
    """

    images: Tensor
    labels: Tensor
    start: int = 0
    masks: Tensor | None = None

    @classmethod
    def just(cls, batch: TrainingBatch) -> GlobalBatch:
        """Return a step that consists of one batch."""
        return cls(batch.images, batch.labels, 0, batch.masks)

    def slice_of(self, batch: TrainingBatch) -> slice:
        """Return the slice of the batch.

        Raises:
            ValueError: it exceeds the step's examples.
        """
        stop = self.start + len(batch)
        if not 0 <= self.start <= stop <= len(self.labels):
            raise ValueError(
                f"the batch would be examples {self.start} to {stop} of a step that has {len(self.labels)}; "
                "give GlobalBatch all examples of the step, and where this batch starts"
            )
        return slice(self.start, stop)

    def as_batch(self) -> TrainingBatch:
        """Return all examples as one batch."""
        return TrainingBatch(images=self.images, labels=self.labels, masks=self.masks)


def class_balance(labels: Tensor, classes: int) -> Tensor:
    """Return weights ``[M]`` that make a mean over examples the sum of class means over the number of classes.

    ``M / (K * n_c)`` for an example of class c with ``n_c`` examples. A class without examples adds nothing,
    as in DRE's code.
    """
    counts = (labels[:, None] == torch.arange(classes, device=labels.device)).sum(0)
    return len(labels) / (classes * counts[labels].float())


def _check_integers(what: str, values: Tensor, count: int) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"the {what} are a {type(values).__name__}; give a tensor [N] of int64")
    if values.dtype != torch.int64:
        raise TypeError(f"the {what} are {values.dtype}; give int64, one number for each image")
    if tuple(values.shape) != (count,):
        raise ValueError(f"the {what} have shape {list(values.shape)} beside {counted(count, 'image')}; give [{count}]")


def _check_masks(masks: Tensor, images: Tensor) -> None:
    if not isinstance(masks, Tensor):
        raise TypeError(f"the masks are a {type(masks).__name__}; give a tensor [N, 1, H, W] in [0, 1]")
    if not masks.is_floating_point():
        raise TypeError(f"the masks are {masks.dtype}; give floating point numbers in [0, 1], NaN where unknown")
    wanted = (len(images), 1, *images.shape[2:])
    if tuple(masks.shape) != wanted:
        raise ValueError(
            f"the masks have shape {list(masks.shape)} beside images {list(images.shape)}; give {list(wanted)}"
        )
