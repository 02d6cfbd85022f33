"""Items of a PiNet's data set: their checks, and their conversion to a batch.

An item of a data set is ``(image, target)`` or ``(image, target, mask)``. Every
item is checked when it is put into a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xai_align._tools.counted import counted
from xai_align.pinet.network.loss_formulas import Task
from xai_align.pinet.network.losses import Batch


@dataclass(frozen=True)
class Collate:
    """Collate function that checks items against the model and puts them into a batch.

    Attributes:
        task: the task.
        classes: K, the number of the model's logits.
        map_size: rows and columns of its coefficient maps.
        dtype: dtype of the model's parameters; images are cast to it.
        labelled: whether targets are used; otherwise they are ignored.
    """

    task: Task
    classes: int
    map_size: tuple[int, int]
    dtype: torch.dtype = torch.float32
    labelled: bool = True

    def __call__(self, items: Sequence[Any]) -> Batch:
        """Return a batch on the CPU."""
        images, targets, masks = zip(*map(self.item, items), strict=True)
        return Batch(
            stacked_images(images),
            torch.stack(targets),
            None if all(mask is None for mask in masks) else self._stacked_masks(masks),
        )

    def item(self, item: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the image, the target and the mask of an item, as tensors.

        Raises:
            TypeError: it is not a pair or triple, or its parts have a wrong type.
            ValueError: a shape or a value is invalid.
        """
        if not isinstance(item, tuple | list) or len(item) not in (2, 3):
            found = f"{counted(len(item), 'part')}" if isinstance(item, tuple | list) else type(item).__name__
            raise TypeError(f"an item of the data set is {found}; give (image, target) or (image, target, mask)")
        image = checked_image(item[0]).to(self.dtype)
        target = self.target(item[1]) if self.labelled else torch.zeros(())
        mask = None if len(item) == 2 or item[2] is None else self.mask(item[2])
        if mask is not None and len(mask) == 1 and self.classes > 1 and not self.labelled:
            raise ValueError("a single mask is that of the labelled class, but labels are ignored (prediction=0)")
        return image, target, mask

    def target(self, value: Any) -> Tensor:
        """Return the target as the loss takes it."""
        found = torch.as_tensor(value)
        if found.is_floating_point() and not found.isfinite().all():
            raise ValueError("a target is NaN or infinite; leave the example out, or give its label")
        match self.task:
            case "multiclass":
                return self._class_number(found)
            case "binary":
                return self._zero_or_one(found.reshape(1)) if found.numel() == 1 else self._refuse(found, "[] or [1]")
            case "multilabel":
                whole = found.shape == (self.classes,)
                return self._zero_or_one(found) if whole else self._refuse(found, f"[{self.classes}]")
            case "regression":
                whole = found.shape == (self.classes,) or (found.dim() == 0 and self.classes == 1)
                return found.reshape(-1).to(self.dtype) if whole else self._refuse(found, f"[{self.classes}]")
            case "segmentation":
                return self._label_map(found)

    def mask(self, value: Any) -> Tensor:
        """Return the mask as the loss takes it."""
        if not isinstance(value, Tensor):
            raise TypeError(f"a mask is a {type(value).__name__}; give a tensor [K or 1, h, w]")
        if value.dim() != 3 or tuple(value.shape[1:]) != self.map_size or len(value) not in (1, self.classes):
            rows, columns = self.map_size
            raise ValueError(
                f"a mask has shape {list(value.shape)}, but the model's maps are {rows} x {columns}; give "
                f"[1, {rows}, {columns}] or [{self.classes}, {rows}, {columns}], resized so that a place holds "
                f"the share of it that is covered: F.interpolate(mask[None], ({rows}, {columns}), mode='area')[0]"
            )
        mask = value.to(self.dtype)
        known = mask[~mask.isnan()]
        if known.numel() and not (known.min() >= 0 and known.max() <= 1):
            raise ValueError(
                f"a mask holds values between {known.min():.3g} and {known.max():.3g}; "
                "give 1 where the class is, 0 where it isn't, NaN where nothing is known"
            )
        return mask

    def _stacked_masks(self, masks: Sequence[Tensor | None]) -> Tensor:
        """Stack the masks of a batch, with NaN for items without one."""
        maps = {len(mask) for mask in masks if mask is not None}
        if len(maps) > 1:
            raise ValueError(f"some masks have one map and some {self.classes}; give all of them the same number")
        unknown = torch.full((*maps, *self.map_size), torch.nan, dtype=self.dtype)
        return torch.stack([unknown if mask is None else mask for mask in masks])

    def _class_number(self, found: Tensor) -> Tensor:
        if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool or found.dim():
            raise TypeError(
                f"a label is {str(found.dtype).removeprefix('torch.')} of shape {list(found.shape)}; "
                "for a multiclass task give the number of the class, an int"
            )
        if not 0 <= int(found) < self.classes:
            raise ValueError(
                f"label {int(found)} is out of range: the model has {self.classes} classes, 0 to {self.classes - 1}; "
                "make the model with as many classes as there are labels"
            )
        return found.to(torch.int64)

    def _zero_or_one(self, found: Tensor) -> Tensor:
        found = found.to(self.dtype)
        if not (found.min() >= 0 and found.max() <= 1):
            raise ValueError(
                f"a {self.task} label is {found.tolist()}; give 0 where the class isn't, 1 where it is "
                "(or a probability between)"
            )
        return found

    def _label_map(self, found: Tensor) -> Tensor:
        if found.is_floating_point():
            return self._zero_or_one(self._of_map_size(found, (self.classes, *self.map_size)))
        found = self._of_map_size(found, self.map_size).to(torch.int64)
        top = max(self.classes, 2)  # a single map is binary
        if not (found.min() >= 0 and found.max() < top):
            raise ValueError(
                f"a label map holds the numbers {int(found.min())} to {int(found.max())}; "
                f"the model has the classes 0 to {top - 1}"
            )
        return found

    def _of_map_size(self, found: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tuple(found.shape) != shape:
            raise ValueError(
                f"a label map has shape {list(found.shape)}, but the model's maps ask for {list(shape)}; "
                "resize it (mode 'nearest' for numbers of classes, 'area' for shares), or make the model's maps larger"
            )
        return found

    def _refuse(self, found: Tensor, wanted: str) -> Tensor:
        raise ValueError(f"a {self.task} target has shape {list(found.shape)}; give {wanted}")


def checked_image(image: Any) -> Tensor:
    """Return the image, a float tensor without NaN.

    Raises:
        TypeError: not a tensor, or an integer tensor.
        ValueError: wrong shape, NaN, or infinite values.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        found = str(image.dtype) if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"an image is {found}; give a float tensor [C, H, W], preprocessed as the model expects it")
    if image.dim() != 3 or not image.numel():
        raise ValueError(f"an image has shape {list(image.shape)}; give [C, H, W]")
    if not image.isfinite().all():
        raise ValueError("an image holds NaN or infinite values")
    return image


def stacked_images(images: Sequence[Tensor]) -> Tensor:
    """Stack images to ``[N, C, H, W]``.

    Raises:
        ValueError: they differ in size.
    """
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise ValueError(f"the images of a batch have several shapes, {sorted(shapes)}; bring them to one size")
    return torch.stack(list(images))
