"""Batches from a data set for a model: loaded, checked, moved to the device, with the teacher's logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from xai_align.pinet.network.losses import Batch
from xai_align.training.choices import Precision
from xai_align.training.epoch_plan import Shard
from xai_align.training.pinet.items import Collate
from xai_align.training.precision import autocast
from xai_align.training.process_group import ProcessGroup

Teacher = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class BatchSource:
    """Source of batches.

    Attributes:
        group: the processes.
        device: device of the model.
        precision: of the teacher's forward passes.
        collate: converts items to a batch.
        teacher: network whose logits are added to the batch.
        num_workers: number of data loading processes per training process.
    """

    group: ProcessGroup
    device: torch.device
    precision: Precision
    collate: Collate
    teacher: Teacher | None = None
    num_workers: int = 0

    def planned(self, data: Dataset[Any], plan: list[list[Shard]], seed: int) -> DataLoader[Batch]:
        """Yield the batches of a planned epoch, on the CPU."""
        return self._loader(data, seed, batch_sampler=[shard.indices for step in plan for shard in step])

    def share_of(self, data: Dataset[Any], batch_size: int) -> DataLoader[Batch]:
        """Yield this process's share of all examples, in order, on the CPU."""
        local = range(self.group.rank, len(data), self.group.count)  # type: ignore[arg-type]
        return self._loader(Subset(data, local), 0, batch_size=batch_size)

    def on_device(self, batch: Batch) -> Batch:
        """Return the batch on the device, with the teacher's logits.

        Raises:
            ValueError: the teacher's output is not ``[N, K]``.
        """
        images, targets = (one.to(self.device, non_blocking=True) for one in (batch.images, batch.targets))
        masks = None if batch.masks is None else batch.masks.to(self.device, non_blocking=True)
        return Batch(images, targets, masks, None if self.teacher is None else self._taught(images))

    def _taught(self, images: Tensor) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad(), autocast(self.device, self.precision):
            logits = self.teacher(images)
        wanted = (len(images), self.collate.classes)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
            found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"the teacher gave {found}; it must give logits {list(wanted)}, for the model's classes")
        if not logits.isfinite().all():
            raise ValueError("the teacher gave NaN or infinite logits")
        return logits.detach().to(torch.promote_types(logits.dtype, torch.float32))

    def _loader(self, data: Dataset[Any], seed: int, **options: Any) -> DataLoader[Batch]:
        return DataLoader(
            data,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(seed),  # for the workers' seeds
            **options,
        )
