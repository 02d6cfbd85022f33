"""Folder of training images: one sub-folder for each class, and masks of some of them in another folder."""

from __future__ import annotations

import hashlib
import os
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from xai_align._tools.callers_level import callers_level
from xai_align._tools.checks import check_number
from xai_align._tools.files.legible import legible
from xai_align._tools.sum_keeping import collect_keeping_sum
from xai_align.data.images import ImageError, images_in, open_image, read_mask
from xai_align.data.prepared_image import prepared_picture
from xai_align.data.value_range import ValueRange

if TYPE_CHECKING:
    from PIL import Image

#: Number of damaged files that a message names.
_NAMED = 5


@dataclass(frozen=True)
class LabelledImage:
    """Image file, the index of its class, and the file of its mask if there is one."""

    path: Path
    label: int
    mask: Path | None = None


def read_image_folder(
    folder: str | Path, masks: str | Path | None = None, *, fewest: int = 2
) -> tuple[list[str], list[LabelledImage]]:
    """Return the classes (the sub-folders with images, sorted by name) and the images of all of them.

    Args:
        folder: holds a sub-folder for each class.
        masks: contains PNG files with the images' names, in the same sub-folders or, if no two images have the same
            name, in one. Pixels that are neither black nor transparent are inside.
        fewest: the smallest number of classes that is taken.

    Raises:
        ValueError: there is no such folder, fewer classes than that, no mask belongs to an image, or one to several.
    """
    folder = _existing(folder, "image folder")
    masks = None if masks is None else _existing(masks, "folder of masks")
    found = {legible(sub.name): images_in(sub) for sub in class_folders(folder) if sub != masks}
    names = [name for name, paths in found.items() if paths]
    if len(names) < fewest:
        there = f"the one sub-folder '{names[0]}'" if names else "no sub-folder with images"
        raise ValueError(f"'{folder}' holds {there}; give a folder with one sub-folder of images for each class")
    images = [LabelledImage(path, label) for label, name in enumerate(names) for path in found[name]]
    if masks is None:
        return names, images
    images = [replace(one, mask=_mask_of(one.path, masks)) for one in images]
    if not any(one.mask for one in images):
        raise ValueError(
            f"no file in '{masks}' has the name of an image; expected for example "
            f"'{masks / names[0] / images[0].path.stem}.png'"
        )
    check_masks_are_of_one_image(images, f"{masks}/CLASS/")
    return names, images


def check_masks_are_of_one_image(images: Sequence[LabelledImage], place: str) -> None:
    """Raise if one mask has the name of several images: it is drawn on one of them, and which one is not known.

    Args:
        images: with their masks.
        place: where masks of images with one name belong, for the message.

    Raises:
        ValueError: a mask is that of several images; the message names them.
    """
    first: dict[Path, LabelledImage] = {}
    for one in images:
        if one.mask is not None and first.setdefault(one.mask, one) is not one:
            raise ValueError(
                f"the mask '{legible(one.mask)}' has the name of several images, such as "
                f"'{legible(first[one.mask].path)}' and '{legible(one.path)}'; give each image a mask of its own: "
                f"masks belong in '{legible(place)}', and images in one folder need different names"
            )


def class_folders(folder: Path) -> list[Path]:
    """Return the sub-folders that may be classes or domains, sorted: not those that tools make, such as .cache."""
    return [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and not sub.name.startswith((".", "__"))]


def check_images(images: Sequence[LabelledImage], value_range: ValueRange | None = None) -> list[LabelledImage]:
    """Open each image and mask once, so that a damaged file is found before a long training and not during it.

    Returns:
        The first image of each size.

    Raises:
        ImageError: some cannot be read, or a mask has another size than its image; the message names the first few.
    """
    problems = []
    of_size: dict[tuple[int, int], LabelledImage] = {}
    for one in images:
        try:
            picture = open_image(one.path, value_range)
            of_size.setdefault(picture.size, one)
            if one.mask is not None:
                _check_size(one, read_mask(one.mask).shape, picture)
        except ImageError as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ImageError(
            f"{'; '.join(problems[:_NAMED])}{more}. Nothing was trained; repair or remove "
            f"{'it' if len(problems) == 1 else 'them'} and start again"
        )
    return list(of_size.values())


def check_input_size(
    images: Sequence[LabelledImage], preprocess: Callable[[Any], Tensor], value_range: ValueRange | None = None
) -> None:
    """Check that the model's preprocessing brings images to one size, which a batch needs.

    Args:
        images: one of each size, from :func:`check_images`.
        preprocess: a PIL image to ``[C, H, W]``.
        value_range: the pixel values that are black and white; None: by each file.

    Raises:
        ValueError: it does not; the message names two images.
    """
    first: torch.Size | None = None
    for one in images:
        shape = prepared_picture(open_image(one.path, value_range), one.path, preprocess).shape
        first = first or shape
        if shape != first:
            raise ValueError(
                f"the model's preprocessing brings '{legible(images[0].path)}' to {list(first)} and "
                f"'{legible(one.path)}' to {list(shape)}, and a batch needs one size; give images of one size, or a "
                "model with a preprocessing that resizes them. Nothing was trained"
            )


def digest_of_files(images: Sequence[LabelledImage]) -> str:
    """Return the SHA-256 of the content, the classes and the masks of images, in their order, whatever their names."""
    digest = hashlib.sha256()
    for one in images:
        for path in (one.path, one.mask):
            digest.update(b"" if path is None else hashlib.sha256(path.read_bytes()).digest())
        digest.update(f":{one.label};".encode())
    return digest.hexdigest()


def stratified_split(
    images: Sequence[LabelledImage], share: float, seed: int, *, warn: bool = True
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Split into training and validation images; the same share of every class, at least one, is for validation.

    A class with a single image is used for training only.

    Args:
        images: to split.
        share: of validation.
        seed: of the shuffling.
        warn: whether to warn about classes with a single image.

    Raises:
        ValueError: the share is not between 0 and 1.
    """
    check_number("the validation share", share, above=0, below=1)
    dice, train, validation = random.Random(seed), [], []
    for label in sorted({one.label for one in images}):
        own = [one for one in images if one.label == label]
        dice.shuffle(own)
        count = min(max(1, round(share * len(own))), len(own) - 1)
        validation += own[:count]
        train += own[count:]
        if warn and not count:
            warnings.warn(
                f"'{legible(own[0].path.parent)}' holds one image, so none of its class is validated",
                stacklevel=callers_level(),
            )
    return train, validation


def class_by_class(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Order images as the first of each class, then the second of each, so that the first few are of many classes."""
    turn: dict[int, int] = {}
    order = []
    for one in images:
        turn[one.label] = turn.get(one.label, -1) + 1
        order.append((turn[one.label], one.label, one))
    return [one for _, _, one in sorted(order, key=lambda entry: entry[:2])]


class LabelledImages(Dataset[Any]):
    """Dataset of images from disk, preprocessed on access: ``(image, label)``, or with a mask.

    Args:
        images: the files.
        preprocess: a PIL image to ``[C, H, W]``.
        map_size: rows and columns of masks; None: items have none.
        value_range: the pixel values that are black and white; None: by each file.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        preprocess: Callable[[Any], Tensor],
        map_size: tuple[int, int] | None = None,
        value_range: ValueRange | None = None,
    ) -> None:
        self.images, self._preprocess, self._map_size = list(images), preprocess, map_size
        self._value_range = value_range

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        one = self.images[number]
        picture = open_image(one.path, self._value_range)
        x = prepared_picture(picture, one.path, self._preprocess)
        return (x, one.label) if self._map_size is None else (x, one.label, self._mask(one, picture))

    def _mask(self, one: LabelledImage, picture: Image.Image) -> Tensor | None:
        """Return the covered share of each position, ``[1, h, w]``; None if there is no mask."""
        if one.mask is None or self._map_size is None:
            return None
        drawn = read_mask(one.mask)
        _check_size(one, drawn.shape, picture)
        inside = mask_on_input(drawn, self._preprocess)
        return collect_keeping_sum(inside.double(), self._map_size)[None].float()


def mask_on_input(inside: Any, preprocess: Callable[[Any], Tensor]) -> Tensor:
    """Map a mask to the model's input: it is passed through the preprocessing as a white shape on black.

    Args:
        inside: bool ``[H, W]``, on the photograph.
        preprocess: the model's; only its geometry matters. A pixel is inside if it is nearer to white.

    Returns:
        bool ``[h, w]``.
    """
    from PIL import Image

    pictures = (np.zeros_like(inside), inside, np.ones_like(inside))
    black, shape, white = (preprocess(Image.fromarray(np.uint8(255) * one).convert("RGB")) for one in pictures)
    return torch.as_tensor((shape - black).abs().sum(0) > (white - shape).abs().sum(0))


def _check_size(one: LabelledImage, size: tuple[int, ...], picture: Image.Image) -> None:
    """Raise unless a mask of ``size`` rows and columns has its image's size."""
    if one.mask is not None and size != (picture.height, picture.width):
        raise ImageError(
            f"the mask '{legible(one.mask)}' has {size[1]} x {size[0]} pixels, its image "
            f"'{legible(one.path)}' {picture.width} x {picture.height}; save it in the image's size"
        )


def _mask_of(image: Path, masks: Path) -> Path | None:
    candidates = (masks / image.parent.name / f"{image.stem}.png", masks / f"{image.stem}.png")
    return next((path for path in candidates if path.is_file()), None)


def _existing(folder: str | Path, what: str) -> Path:
    path = Path(folder).expanduser()
    if not os.path.isdir(path):
        raise ValueError(f"the {what} '{folder}' does not exist, or is not a folder")
    return path
