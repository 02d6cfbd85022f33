"""Features of a set of images, computed once, within a budget of memory, and kept on disk until the fit has ended."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xai_align._tools.counted import counted
from xai_align.training.checkpoints import DamagedCheckpoint, Snapshot, read_checkpoint, same, write_checkpoint

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class CachedFeatures:
    """Features of ``N`` images at a layer.

    Attributes:
        sums: ``[N, D]``, summed over positions, of all images.
        maps: ``[M, P, D]``, of the images in ``sample``.
        sample: ``[M]``, indices of images, increasing.
        grid: rows and columns of the maps; ``P`` is their product.
        image_size: rows and columns of the images.
    """

    sums: Tensor
    maps: Tensor
    sample: Tensor
    grid: tuple[int, int]
    image_size: tuple[int, int]


def gather_features(
    maps_of: Callable[[Tensor], Tensor],
    images: Any,
    *,
    memory: float,
    least: int,
    batch_size: int = 32,
    seed: int = 0,
    device: torch.device | str | None = None,
    folder: Path | None = None,
    config: Mapping[str, Any] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> CachedFeatures:
    """Compute and cache the features of all images.

    Args:
        maps_of: function from images ``[n, C, H, W]`` to maps ``[n, D, h, w]``.
        images: a sequence of tensors ``[C, H, W]``, or of tuples that begin with one.
        memory: GiB for sums and maps. If the maps of all images take more, those of a random sample are kept.
        least: smallest sample.
        batch_size: images per forward pass.
        seed: seed of the sample.
        device: where the images are moved to.
        folder: each batch is written there, and read again by a run that goes on; None: nothing is written.
        config: what the features depend on; files of another configuration are computed again.
        advance: called with the number of images after each batch.

    Raises:
        ValueError: sizes differ, features are not finite, or the budget is too small.
    """
    config = {"config": dict(config or {}), "batch": batch_size}
    batches = _batches(maps_of, images, batch_size, device, folder, config)
    first, image_size = next(batches)
    grid = (first.shape[2], first.shape[3])
    sample = _sample(len(images), first.shape[1], grid[0] * grid[1], memory, least, seed)
    place = {image: row for row, image in enumerate(sample.tolist())}
    sums = first.new_empty(len(images), first.shape[1])
    maps = first.new_empty(len(sample), grid[0] * grid[1], first.shape[1])
    start, found = 0, first
    while True:
        sums[start : start + len(found)] = found.sum((2, 3))
        for offset, one in enumerate(found):
            if (row := place.get(start + offset)) is not None:
                maps[row] = one.flatten(1).T
        start += len(found)
        advance(len(found))
        following = next(batches, None)
        if following is None:
            return CachedFeatures(sums=sums, maps=maps, sample=sample, grid=grid, image_size=image_size)
        found, size = following
        if size != image_size or found.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"images {start} to {start + len(found) - 1} have {size[0]} x {size[1]} pixels, those before "
                f"{image_size[0]} x {image_size[1]}; give all images in one size"
            )


def stacked(images: Any, which: range | list[int]) -> Tensor:
    """Return some images as a batch ``[n, C, H, W]``.

    Raises:
        ValueError: they have different sizes.
        TypeError: an item is not an image.
    """
    found = []
    for number in which:
        one = images[number]
        one = one[0] if isinstance(one, tuple | list) else one
        if not isinstance(one, Tensor) or one.dim() != 3 or not one.is_floating_point():
            what = f"a tensor {list(one.shape)} of {one.dtype}" if isinstance(one, Tensor) else type(one).__name__
            raise TypeError(f"image {number} is {what}; expected a floating-point tensor [C, H, W]")
        found.append(one)
    if len({one.shape for one in found}) > 1:
        sizes = ", ".join(sorted({str(list(one.shape)) for one in found}))
        raise ValueError(f"the images have different shapes ({sizes}); give all images in one size")
    return torch.stack(found)


def _batches(
    maps_of: Callable[[Tensor], Tensor],
    images: Any,
    batch_size: int,
    device: torch.device | str | None,
    folder: Path | None,
    config: Mapping[str, Any],
) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Yield maps ``[n, D, h, w]`` on the CPU, and the size of the images, from files where there are some."""
    for start in range(0, len(images), batch_size):
        which = range(start, min(start + batch_size, len(images)))
        path = None if folder is None else folder / f"{start:08d}.safetensors"
        known = None if path is None else _read(path, config)
        if known is None:
            batch = stacked(images, which)
            maps = maps_of(batch if device is None else batch.to(device)).float().cpu()
            if not bool(maps.isfinite().all()):
                wrong = [which[i] for i in range(len(which)) if not bool(maps[i].isfinite().all())]
                raise ValueError(f"the features of image(s) {wrong[:5]} hold NaN or infinity; check images and network")
            known = maps, (batch.shape[-2], batch.shape[-1])
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_checkpoint(path, Snapshot({"maps": maps}, {**config, "image_size": list(known[1])}))
        yield known


def _read(path: Path, config: Mapping[str, Any]) -> tuple[Tensor, tuple[int, int]] | None:
    """Return the content of a file; None if there is none, it is damaged, or of another configuration."""
    if not path.is_file():
        return None
    try:
        saved = read_checkpoint(path)
        rows, columns = saved.numbers["image_size"]
        fits = all(same(saved.numbers.get(name), value) for name, value in config.items())
        return (saved.tensors["maps"], (int(rows), int(columns))) if fits else None
    except (DamagedCheckpoint, KeyError, TypeError, ValueError):
        return None


def _sample(count: int, channels: int, positions: int, memory: float, least: int, seed: int) -> Tensor:
    """Return the indices of the images whose maps fit into the budget beside the sums of all."""
    budget, sums, one = memory * _GIB, 4 * count * channels, 4 * positions * channels
    fitting = int((budget - sums) // one)
    if fitting >= count:
        return torch.arange(count, device="cpu")
    if fitting < least:
        needed = (sums + least * one) / _GIB
        raise ValueError(
            f"memory={memory:g} GiB holds the maps of {max(0, fitting)} of {counted(count, 'image')}, and at least "
            f"{least} are needed; give memory={1.05 * needed:.3g} or more"
        )
    return torch.tensor(sorted(random.Random(seed).sample(range(count), fitting)), device="cpu")
