"""Repeatable iteration over a loader: an epoch that starts over has the same order.

The order of a shuffling loader depends on random generators. Before every epoch
they are seeded from the fit's seed and the epoch, and the loader's random state is
separate from that of the networks: dropout, or an additional loss term, never changes
the order of the images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from xai_align._tools.random_state import RandomState, seed_all
from xai_align.training.epoch_plan import derived_seed


class SeededLoader:
    """Loader whose epochs are repeatable, with its own random state.

    Args:
        loader: anything that can be iterated over again.
        seed: seed of the fit.
        name: name of the loader in messages, e.g. "the training data".

    Raises:
        TypeError: it can't be iterated over, or only once.
    """

    def __init__(self, loader: Any, seed: int, name: str) -> None:
        self.loader, self.seed, self.name = loader, seed, name
        if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
            raise TypeError(f"{name} are a {type(loader).__name__}; give a DataLoader, or a list of (images, labels)")
        if isinstance(loader, Iterator):
            raise TypeError(
                f"{name} are a {type(loader).__name__}, which can be iterated over only once; a fit needs them in "
                "every epoch. Give a DataLoader or a list, or an object whose __iter__ starts over"
            )

    def epoch(self, number: int) -> Iterator[Any]:
        """Yield the batches of epoch ``number``.

        Raises:
            ValueError: the loader yields nothing.
        """
        purpose = derived_seed(self.seed, "epoch", self.name, number)
        for generator in _generators_of(self.loader):
            generator.manual_seed(derived_seed(purpose, "generator"))
        for part in _parts_of(self.loader):
            if callable(getattr(part, "set_epoch", None)):
                part.set_epoch(number)
        own = _RandomState()
        with own.inside():
            seed_all(purpose)
            source = iter(self.loader)
        empty = True
        while True:
            with own.inside():
                try:
                    raw = next(source)
                except StopIteration:
                    break
            empty = False
            yield raw
        if empty:
            raise ValueError(
                f"{self.name} are empty: the loader yields no batch; "
                "give examples, or drop_last=False where they are fewer than a batch"
            )

    def __len__(self) -> int:
        """Return the number of batches in an epoch; 0 if unknown."""
        try:
            return len(self.loader)
        except TypeError:
            return 0

    @property
    def caveat(self) -> str | None:
        """Sentence on what is not reproducible in the loader; None if nothing is known."""
        if getattr(self.loader, "persistent_workers", False):
            return (
                f"{self.name} are loaded by persistent workers, whose random states continue from epoch to epoch: "
                "random augmentations differ after a resumption (persistent_workers=False makes them repeatable)"
            )
        return None


@contextmanager
def preserved_loader_state(*loaders: Any) -> Iterator[None]:
    """Restore the loaders' own generators and epoch numbers after the block."""
    generators = [(one, one.get_state()) for loader in loaders for one in _generators_of(loader)]
    epochs = [
        (part, part.epoch)
        for loader in loaders
        for part in _parts_of(loader)
        if callable(getattr(part, "set_epoch", None)) and isinstance(getattr(part, "epoch", None), int)
    ]
    try:
        yield
    finally:
        for generator, state in generators:
            generator.set_state(state)
        for part, epoch in epochs:
            part.set_epoch(epoch)


def _parts_of(loader: Any) -> list[Any]:
    """Yield the loader and its parts that may have a random state or an epoch number."""
    parts = [loader]
    for part in parts:
        for name in ("sampler", "batch_sampler", "dataset"):
            inner = getattr(part, name, None)
            if inner is not None and all(inner is not known for known in parts):
                parts.append(inner)
    return parts


def _generators_of(loader: Any) -> list[torch.Generator]:
    found = [getattr(part, "generator", None) for part in _parts_of(loader)]
    return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())


class _RandomState:
    """Separate random state that replaces the global one inside a block."""

    def __init__(self) -> None:
        self._kept = RandomState.now()

    @contextmanager
    def inside(self) -> Iterator[None]:
        outside = RandomState.now()
        self._kept.restore()
        try:
            yield
        finally:
            self._kept = RandomState.now()
            outside.restore()
