"""The images of a comparison: distinct files, and the first that the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from xai_align._tools.files.legible import legible
from xai_align.comparison.one_by_one import message_of
from xai_align.comparison.provenance import file_sha256
from xai_align.data.images import ImageError
from xai_align.data.prepared_image import prepared_image
from xai_align.data.value_range import ValueRange
from xai_align.explanation import logits_of
from xai_align.hookspecs import LoadedModel
from xai_align.question import TargetError

#: Number of images on which the model may fail before the comparison is given up.
PROBED_IMAGES = 64


def distinct_pictures(
    paths: Sequence[Path], limit: int | None
) -> tuple[tuple[Path, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the first ``limit`` distinct files, their hashes, and notes on the duplicates."""
    first: dict[str, Path] = {}
    kept: list[tuple[Path, str]] = []
    notes: list[str] = []
    for path in paths:
        if limit is not None and len(kept) == limit:
            break
        try:
            digest = file_sha256(path)
        except OSError:  # reported when it is processed
            kept.append((path, ""))
            continue
        if digest in first:
            notes.append(f"{legible(path)} is the same picture as {legible(first[digest])} and was counted once")
            continue
        first[digest] = path
        kept.append((path, digest))
    return tuple(path for path, _ in kept), tuple(digest for _, digest in kept), tuple(notes)


def first_usable(
    paths: Sequence[Path], loaded: LoadedModel, where: torch.device, value_range: ValueRange | None
) -> tuple[Tensor, Tensor]:
    """Return the input ``[1, C, H, W]`` of the first image that the model takes, and its logits.

    The images before it are reported when they are processed.

    Raises:
        ValueError: no image can be read, or the model fails on all of the first ones.
    """
    problem = ""
    failed = 0
    for path in paths:
        try:
            x = prepared_image(path, loaded, value_range)[0][None].to(where)
            return x, logits_of(loaded.model, x, loaded.output_field)
        except ImageError as error:
            problem = problem or str(error)
        except TargetError:  # the outputs are not logits, whatever the image
            raise
        except Exception as error:  # models may raise anything, for an image of another size or number of channels
            problem = problem or f"{legible(path)}: the model failed: {message_of(error)}"
            failed += 1
            if failed == PROBED_IMAGES:
                break
    tried = failed if failed == PROBED_IMAGES else len(paths)
    none = "the image can't be used" if tried == 1 else f"none of the {tried} images can be used; the first"
    raise ValueError(f"{none}: {problem}")
