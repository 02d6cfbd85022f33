"""Folder of images from several domains, ``DOMAIN/CLASS/*.jpg``, or from a single one, ``CLASS/*.jpg``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xai_align._tools.checks import check_number
from xai_align._tools.counted import counted
from xai_align._tools.did_you_mean import did_you_mean
from xai_align._tools.files.legible import legible
from xai_align.data.image_folder import (
    LabelledImage,
    check_masks_are_of_one_image,
    class_folders,
    read_image_folder,
    stratified_split,
)
from xai_align.data.images import images_in, is_image_name


@dataclass(frozen=True, kw_only=True)
class Domains:
    """Images by domain, with one numbering of the classes.

    Attributes:
        classes: names of the classes, those of the sources.
        images: the images of each domain, the sources first.
        sources: the domains that are trained on.
        notes: remarks on what was left out.
    """

    classes: Sequence[str]
    images: Mapping[str, Sequence[LabelledImage]]
    sources: Sequence[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images for training, validation and test. ``test`` has every domain, the sources first with held-out images."""

    train: Sequence[LabelledImage]
    validation: Sequence[LabelledImage]
    test: Mapping[str, Sequence[LabelledImage]]


def read_domains(folder: str | Path, sources: Sequence[str] = (), masks: Path | None = None) -> Domains:
    """Read the images of a folder.

    Args:
        folder: contains a sub-folder for each domain, which contains one for each class; or, with no sources, one
            for each class.
        sources: names of domains to train on. The others are for testing; images of classes that no source has are
            left out. A domain may lack classes, if the sources together have two.
        masks: holds PNG masks of some of the sources' images, in the same sub-folders or, if no two images have the
            same name, by the images' names.

    Raises:
        ValueError: there is no such folder or domain, it holds no images in sub-folders for classes, the sources
            have fewer than two classes, or a mask belongs to several images.
    """
    folder = Path(folder).expanduser()
    if not sources:
        _refuse_domains(folder)
        names, images = read_image_folder(folder, masks)
        own = folder.name or "images"
        return Domains(classes=names, images={own: images}, sources=[own], notes=_not_read(folder, masks))
    there = _domains_in(folder)
    for name in sources:
        if name not in there:
            known = ", ".join(there) or "none: no sub-folder of it holds folders of images"
            raise ValueError(f"'{folder}' has no domain '{name}'{did_you_mean(name, there)} Its domains: {known}")
    order = [*dict.fromkeys(sources), *(name for name in there if name not in sources)]
    found = {name: read_image_folder(folder / name, _masks_of(masks, name, sources), fewest=1) for name in order}
    if masks is not None:
        given = [one for name in dict.fromkeys(sources) for one in found[name][1]]
        check_masks_are_of_one_image(given, f"{masks}/DOMAIN/CLASS/")
    classes = sorted({one for name in sources for one in found[name][0]})
    if len(classes) < 2:
        named = " and ".join(f"'{legible(name)}'" for name in dict.fromkeys(sources))
        raise ValueError(
            f"the images of {named} are all of the class '{classes[0]}', and a classifier needs two; train on more "
            "domains, or add folders of other classes"
        )
    kept = {name: _renumbered(*found[name], classes) for name in order}
    strange = {name: len(found[name][1]) - len(kept[name]) for name in order}
    notes = [
        f"{counted(count, 'image')} of '{name}' {'is' if count == 1 else 'are'} of no class that a source has, and "
        "left out"
        for name, count in strange.items()
        if count
    ]
    notes += [note for name in order for note in _not_read(folder / name, masks)]
    return Domains(
        classes=classes,
        images={name: images for name, images in kept.items() if images},
        sources=list(dict.fromkeys(sources)),
        notes=notes,
    )


def split_domains(domains: Domains, *, validation_share: float, test_share: float, seed: int) -> Split:
    """Split every class of every source into training, validation and test; other domains are for the test.

    Args:
        domains: the images by domain.
        validation_share: share of a source's images for choosing the best weights.
        test_share: share of a source's images for the in-domain test; they are used for nothing else.
        seed: seed of the shuffling.

    Raises:
        ValueError: the shares are not between 0 and 1, or leave no images to train on.
    """
    check_number("the validation share", validation_share, above=0, below=1)
    check_number("the test share", test_share, above=0, below=1)
    if validation_share + test_share >= 1:
        raise ValueError(
            f"validation ({validation_share}) and test ({test_share}) take all the images; "
            "give shares that leave some to train with, such as 0.15 each"
        )
    train, validation, test = [], [], {}
    for name in domains.sources:
        rest, test[name] = stratified_split(domains.images[name], test_share, seed, warn=False)
        ours, theirs = stratified_split(rest, validation_share / (1 - test_share), seed, warn=False)
        train += ours
        validation += theirs
    others = {name: images for name, images in domains.images.items() if name not in domains.sources}
    return Split(train=train, validation=validation, test={**test, **others})


def _domains_in(folder: Path) -> list[str]:
    """Return the names of sub-folders that contain folders of images."""
    if not os.path.isdir(folder):
        raise ValueError(f"the image folder '{folder}' does not exist, or is not a folder")
    return [sub.name for sub in class_folders(folder) if any(map(_has_images, class_folders(sub)))]


def _has_images(folder: Path) -> bool:
    return os.path.isdir(folder) and bool(images_in(folder))


def _refuse_domains(folder: Path) -> None:
    """Raise if the images are a level deeper, in a folder for each domain."""
    if not os.path.isdir(folder) or any(map(_has_images, class_folders(folder))):
        return
    domains = _domains_in(folder)
    if domains:
        raise ValueError(
            f"'{folder}' holds folders of folders of images ({', '.join(domains)}); "
            f"say which of these domains are trained on: --source {domains[0]}"
        )


def _not_read(folder: Path, masks: Path | None) -> list[str]:
    """Return a remark on each folder of a class with images in its sub-folders, or links to none: neither are read."""
    classes = [sub for sub in class_folders(folder) if sub != masks]
    below = {sub: len(images_in(sub, recursive=True)) - len(images_in(sub)) for sub in classes}
    nowhere = {sub: sum(is_image_name(one) and not one.exists() for one in sub.iterdir()) for sub in classes}
    notes = [
        f"{counted(count, 'link')} in '{legible(sub)}' {'points' if count == 1 else 'point'} to no file, and "
        f"{'is' if count == 1 else 'are'} left out"
        for sub, count in nowhere.items()
        if count
    ]
    return notes + [
        f"{counted(count, 'image')} in folders below '{legible(sub)}' {'is' if count == 1 else 'are'} not read; move "
        f"{'it' if count == 1 else 'them'} up into that folder"
        for sub, count in below.items()
        if count > 0
    ]


def _masks_of(masks: Path | None, domain: str, sources: Sequence[str]) -> Path | None:
    if masks is None or domain not in sources:
        return None
    return masks / domain if os.path.isdir(masks / domain) else masks


def _renumbered(names: Sequence[str], images: Sequence[LabelledImage], classes: Sequence[str]) -> list[LabelledImage]:
    numbers = {label: classes.index(name) for label, name in enumerate(names) if name in classes}
    return [replace(one, label=numbers[one.label]) for one in images if one.label in numbers]
