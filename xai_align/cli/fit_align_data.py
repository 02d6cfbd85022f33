"""Checks of a folder's images before ``xai-align fit-align`` trains on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from xai_align._tools.counted import counted
from xai_align._tools.files.legible import legible
from xai_align.data.domain_folder import Domains, Split
from xai_align.data.image_folder import LabelledImage

#: With fewer training images, masks and scores say more about single pictures than about the method.
FEWEST = 30
#: Number of names in a message.
_NAMED = 5


def check_data(domains: Domains, split: Split) -> list[str]:
    """Return reasons to expect little of a training on these images, in sentences.

    Raises:
        ValueError: it could not be finished, because no image is left for validation, or for the test of a source.
    """
    _check_parts(domains, split)
    counts = Counter(one.label for one in split.train)
    return [
        *_few_images(split),
        *_single_images(domains, counts),
        *_unvalidated(domains, counts, Counter(one.label for one in split.validation)),
        *_lacking(domains),
    ]


def _check_parts(domains: Domains, split: Split) -> None:
    parts = {"validation": split.validation} | {f"the test of '{name}'": split.test[name] for name in domains.sources}
    for part, images in parts.items():
        if not images:
            most = max(_counts(domains.images[name]).most_common(1)[0][1] for name in domains.sources)
            raise ValueError(
                f"no image is left for {part}: no class of a source has more than {counted(most, 'image')}, and "
                "three are needed, one each to train, to validate and to test with. Nothing was trained; add images"
            )


def _few_images(split: Split) -> list[str]:
    count = len(split.train)
    if count >= FEWEST:
        return []
    return [
        f"the training set has only {counted(count, 'image')}; with fewer than {FEWEST} a masker memorises single "
        "pictures and does not learn where evidence lies, so don't rely on the masks, and don't compare accuracies"
    ]


def _single_images(domains: Domains, counts: Counter[int]) -> list[str]:
    names = [legible(name) for label, name in enumerate(domains.classes) if counts[label] == 1]
    if not names:
        return []
    return [
        f"only one training image is left of {_listed(names)}; ALIGN mixes images of one class, which needs two of "
        "each, and one image does not show where a class's evidence lies: add images, or leave the class out"
    ]


def _unvalidated(domains: Domains, trained: Counter[int], validated: Counter[int]) -> list[str]:
    names = [legible(name) for label, name in enumerate(domains.classes) if trained[label] and not validated[label]]
    if not names:
        return []
    return [f"no validation image is left of {_listed(names)}; a class needs at least three images"]


def _lacking(domains: Domains) -> list[str]:
    """Return remarks on domains without images of some classes."""
    remarks = []
    for domain, images in domains.images.items():
        there = _counts(images)
        names = [legible(name) for label, name in enumerate(domains.classes) if not there[label]]
        if not names:
            continue
        told = (
            "features common to this domain then predict the class, a shortcut that no mask removes"
            if domain in domains.sources
            else "its scores are over other classes than those of the sources, so they are not comparable"
        )
        remarks.append(f"the domain '{legible(domain)}' has no images of {_listed(names)}; {told}")
    return remarks


def _counts(images: Sequence[LabelledImage]) -> Counter[int]:
    return Counter(one.label for one in images)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
