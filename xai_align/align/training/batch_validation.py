"""Conversion of a loader's output to training batches; anything else raises with advice on what to do.

A batch is checked on the device the loader put it on, usually the CPU, before it goes to the model's device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xai_align._tools.counted import counted
from xai_align._tools.images import check_images
from xai_align._tools.inference_tensors import ordinary
from xai_align.align.forward_passes.training_batch import TrainingBatch

ReadBatch = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class BatchValidator:
    """Converter of a loader's output to a :class:`~xai_align.align.forward_passes.training_batch.TrainingBatch`.

    Attributes:
        name: name of the loader in messages, e.g. "the training data".
        read_batch: converts a batch of another kind to a supported one; None: not needed.
        classes: K, the number of the classifier's logits; None: unknown, so the range of labels is not checked.
        dtype: dtype of the classifier's parameters; images are cast to it.
    """

    name: str = "the batch"
    read_batch: ReadBatch | None = None
    classes: int | None = None
    dtype: torch.dtype = torch.float32

    def __call__(self, raw: Any) -> TrainingBatch:
        """Return the checked batch.

        Raises:
            TypeError: the batch or a part of it has an unsupported type.
            ValueError: shapes or values are invalid.
        """
        parts = self._parts(raw if self.read_batch is None else self.read_batch(raw))
        images, labels, masks, indices = map(ordinary, parts)
        images = check_images(f"{self.name}: the images", images).to(self.dtype)
        labels = self._labels(labels, len(images))
        return TrainingBatch(
            images=images,
            labels=labels,
            masks=None if masks is None else self._masks(masks, images),
            indices=None if indices is None else self._indices(indices, labels),
        )

    def _parts(self, raw: Any) -> tuple[Any, Any, Any, Any]:
        if isinstance(raw, TrainingBatch):
            return raw.images, raw.labels, raw.masks, raw.indices
        if isinstance(raw, Mapping):
            keys = ", ".join(repr(key) for key in list(raw)[:6])
            raise TypeError(
                f"{self.name} are dictionaries (with {keys}); name the entries: "
                'read_batch=lambda b: (b["image"], b["label"])'
            )
        if isinstance(raw, Tensor):
            raise TypeError(
                f"{self.name} are tensors {list(raw.shape)} without labels; yield (images, labels), "
                "or give read_batch=..., a function from what is yielded to (images, labels)"
            )
        if not isinstance(raw, tuple | list) or len(raw) not in (2, 3):
            found = (
                f"{type(raw).__name__}s of {counted(len(raw), 'part')}" if isinstance(raw, tuple | list) else _kind(raw)
            )
            raise TypeError(
                f"{self.name} are {found}; yield (images, labels) or (images, labels, masks), "
                "or give read_batch=..., a function from what is yielded to one of these"
            )
        return raw[0], raw[1], raw[2] if len(raw) == 3 else None, None

    def _labels(self, labels: Any, count: int) -> Tensor:
        if labels is None:
            raise TypeError(
                f"{self.name}: there are no labels, which a classifier and its CAM of the true class need; yield "
                "(images, labels)"
            )
        found = _tensor_of(labels)
        if isinstance(found, Tensor) and found.dim() == 2 and found.shape[0] == count and found.shape[1] > 1:
            raise TypeError(
                f"{self.name}: the labels have shape {list(found.shape)}, one number for each class; "
                "give the number of the class: labels.argmax(1)"
            )
        if isinstance(found, Tensor) and found.dim() == 2 and found.shape[1] == 1:
            found = found[:, 0]
        if not isinstance(found, Tensor) or found.is_floating_point() or found.is_complex():
            dtype = str(found.dtype).removeprefix("torch.") if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f"{self.name}: the labels are {dtype}; give the numbers of the classes, whole numbers")
        if found.dtype == torch.bool or found.dim() != 1 or len(found) != count:
            raise ValueError(
                f"{self.name}: the labels are {str(found.dtype).removeprefix('torch.')} of shape {list(found.shape)} "
                f"for {counted(count, 'image')}; give one whole number for each image"
            )
        least, most = int(found.min()), int(found.max())
        if least < 0 or (self.classes is not None and most >= self.classes):
            wrong = least if least < 0 else most
            known = (
                "" if self.classes is None else f": the classifier has {self.classes} classes, 0 to {self.classes - 1}"
            )
            raise ValueError(
                f"{self.name}: label {wrong} is out of range{known}; number the classes from 0, "
                "and make the classifier with as many classes as there are labels"
            )
        return found.to(torch.int64)

    def _masks(self, masks: Any, images: Tensor) -> Tensor:
        if not isinstance(masks, Tensor):
            raise TypeError(f"{self.name}: the masks are {_kind(masks)}; give a tensor [N, 1, H, W]")
        found = masks[:, None] if masks.dim() == 3 else masks
        wanted = (len(images), 1, *images.shape[2:])
        if tuple(found.shape) != wanted:
            raise ValueError(
                f"{self.name}: the masks have shape {list(masks.shape)}; give {list(wanted)}, of the images' size"
            )
        found = found.to(self.dtype)
        known = found[~found.isnan()]
        if known.numel() and not (known.min() >= 0 and known.max() <= 1):
            raise ValueError(
                f"{self.name}: the masks hold values between {known.min():.3g} and {known.max():.3g}; "
                "give 1 where the evidence is, 0 where it isn't, NaN where it is unknown"
            )
        return found

    def _indices(self, indices: Any, labels: Tensor) -> Tensor:
        found = torch.as_tensor(indices)
        if found.is_floating_point() or found.shape != labels.shape:
            raise ValueError(
                f"{self.name}: the indices have shape {list(found.shape)} for {counted(len(labels), 'image')}; "
                "give the number of each example in the data set"
            )
        return found.to(torch.int64)


def _tensor_of(values: Any) -> Any:
    """Return the values as a tensor, if possible."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return values


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__}s"
