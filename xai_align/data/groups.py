"""Named groups of classes, for questions such as "why a dog and not a cat?"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xai_align._tools.checks import check_finite, check_integer, check_number
from xai_align._tools.counted import counted


class ClassGroups(Mapping[str, tuple[int, ...]]):
    """Immutable mapping of group names to ascending class indices. Build it with the class methods."""

    __slots__ = ("_groups", "_num_classes")

    def __init__(self, mapping: Mapping[str, Iterable[int]], num_classes: int | None = None) -> None:
        if not isinstance(mapping, Mapping):
            raise TypeError(f"groups are given as {type(mapping).__name__}; give a mapping from names to class indices")
        if num_classes is not None:
            check_integer("num_classes", num_classes)
        self._groups = {_name(name): class_indices(mapping[name], f"group '{name}'", num_classes) for name in mapping}
        self._num_classes = num_classes

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Iterable[int]], *, num_classes: int | None = None) -> ClassGroups:
        """Build groups that have no class in common.

        Args:
            mapping: names to class indices, from 0.
            num_classes: the number of classes; None: not known, see :meth:`check`.

        Raises:
            TypeError: an index is not an integer, a name not a string, the groups not a mapping.
            ValueError: a group is empty, names a class twice or one out of range, or shares classes with another.
        """
        return cls(mapping, num_classes).disjoint()

    @classmethod
    def from_overlapping_dict(
        cls, mapping: Mapping[str, Iterable[int]], *, num_classes: int | None = None
    ) -> ClassGroups:
        """Build groups that may share classes, as terriers and dogs do; otherwise like :meth:`from_dict`."""
        return cls(mapping, num_classes)

    @classmethod
    def from_hypernyms(cls, names_or_wnids: Iterable[str] | None = None) -> ClassGroups:
        """Build groups of ImageNet's 1000 classes by WordNet, keyed by wnid; they may overlap.

        Args:
            names_or_wnids: wnids or unambiguous English names; None for all groups of two or more classes.

        Raises:
            TypeError: one string is given instead of several.
            ValueError: no group has this name, or several do (the message lists them).
        """
        from xai_align.data.imagenet_groups import NUM_CLASSES, find_hypernym, hypernyms

        if isinstance(names_or_wnids, str):
            raise TypeError(f"'{names_or_wnids}' is one string; give a list of names or wnids")
        found = hypernyms().values() if names_or_wnids is None else map(find_hypernym, names_or_wnids)
        return cls({group.wnid: group.classes for group in found}, NUM_CLASSES)

    @classmethod
    def from_confusion(
        cls, probabilities: Tensor, *, top: int = 5, overlap: float = 0.1, largest: int | None = None
    ) -> ClassGroups:
        """Build groups of classes that a model confuses: those that often occur together among its top classes.

        The idea is that of CWOX (Xie et al., UAI 2023), with a simpler
        clustering. ``n_ij`` counts the examples whose ``top`` classes hold both
        ``i`` and ``j``; the similarity of two classes is ``n_ij / (n_i + n_j - n_ij)``. The
        two groups with the highest mean over their pairs are merged (average
        linkage; of equal pairs the one with the lowest classes) until none
        reaches ``overlap``. A class that is merged with no other is in no group. A group
        is named "confused-" and its lowest class.

        Args:
            probabilities: ``[N, K]`` for N examples; only the order within an example matters.
            top: number of top classes per example. Classes tied across the last rank do not count.
            overlap: the smallest similarity of two groups that are merged, above 0 and at most 1.
            largest: the largest number of classes in a group; None for any number.

        Raises:
            TypeError: the probabilities are not a floating-point tensor.
            ValueError: a wrong shape, values that are not finite, options out of range.
        """
        _check_confusion(probabilities, top, overlap, largest)
        joined = _joined_while_alike(_likeness(_among_the_first(probabilities, top)), overlap, largest)
        groups = {f"confused-{group[0]}": group for group in joined if len(group) > 1}
        return cls.from_dict(groups, num_classes=probabilities.shape[1])

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the output that the groups were built for, if known."""
        return self._num_classes

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {len(group)}" for name, group in list(self.items())[:6])
        return f"ClassGroups({sizes}{', …' if len(self) > 6 else ''})"

    def groups_of(self, index: int) -> tuple[str, ...]:
        """Return the names of all groups with a class, smallest first, equal ones in the given order; ``()`` if none.

        Raises:
            TypeError: the index is not an integer.
            ValueError: the index is out of range.
        """
        index = class_index(index, "the question", self.num_classes)
        holding = [name for name, group in self.items() if index in group]
        return tuple(sorted(holding, key=lambda name: len(self[name])))

    def group_of(self, index: int) -> str:
        """Return the name of the smallest group with a class; of equally small ones, the first in the given order.

        Raises:
            TypeError: the index is not an integer.
            ValueError: the index is out of range, or the class is in no group.
        """
        holding = self.groups_of(index)
        if not holding:
            raise ValueError(f"class {index} is in none of the {len(self)} groups")
        return holding[0]

    def siblings(self, index: int) -> tuple[int, ...]:
        """Return the other classes of :meth:`group_of`; ``()`` if the class is alone in its group."""
        return tuple(other for other in self[self.group_of(index)] if other != index)

    def disjoint(self) -> ClassGroups:
        """Check that no class is in two groups, and return these groups.

        Raises:
            ValueError: a class is in two; the message names the classes and their groups.
        """
        times = Counter(index for group in self.values() for index in group)
        shared = [index for index in sorted(times) if times[index] > 1]
        if shared:
            where = "; ".join(f"{index} in {', '.join(map(repr, self.groups_of(index)))}" for index in shared[:5])
            more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
            raise ValueError(
                f"{counted(len(shared), 'class')} {'is' if len(shared) == 1 else 'are'} in more than one group: "
                f"{where}{more}; "
                "leave them in one, or use from_overlapping_dict"
            )
        return self

    def check(self, num_classes: int) -> ClassGroups:
        """Check that the groups fit an output of ``num_classes`` classes, and return them.

        Raises:
            ValueError: they were built for another number of classes, or name one out of range.
        """
        if self.num_classes is not None and num_classes != self.num_classes:
            raise ValueError(
                f"these groups are for {counted(self.num_classes, 'class')}, this output has {num_classes}"
            )
        for name, group in self.items():
            class_indices(group, f"group '{name}'", num_classes)
        return self


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a group is called {name!r}; give a string")
    return name


def class_indices(classes: Any, where: str, num_classes: int | None) -> tuple[int, ...]:
    """Return the ascending indices of a group's classes, each checked.

    Args:
        classes: any collection of integers, a tensor or an array.
        where: the origin of the classes, for the message: "group 'dogs'".
        num_classes: the number of classes; None: any.

    Raises:
        TypeError: not a collection of integers.
        ValueError: none, one twice, or one out of range.
    """
    # in lists, unlike tensors and arrays, integers are distinct from floats and booleans
    entries = classes.tolist() if hasattr(classes, "tolist") else classes
    if isinstance(entries, str | bytes | Mapping) or not isinstance(entries, Iterable):
        raise TypeError(f"{where} is given as {classes!r}; give class indices, such as [151, 152]")
    members = sorted(class_index(entry, where, num_classes) for entry in entries)
    if not members:
        raise ValueError(f"{where} is empty; a group has at least one class")
    twice = [index for index, times in Counter(members).items() if times > 1]
    if twice:
        raise ValueError(f"{where} names {twice} more than once")
    return tuple(members)


def class_index(entry: Any, where: str, num_classes: int | None) -> int:
    """Return a class index, checked as in :func:`class_indices`."""
    number = entry.tolist() if hasattr(entry, "tolist") else entry
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise TypeError(f"{where} names the class {entry!r}; class indices are integers")
    index = int(number.__index__())
    if index < 0:
        raise ValueError(f"{where} names class {index}; classes are numbered from 0")
    if num_classes is not None and index >= num_classes:
        raise ValueError(f"{where} names class {index}; there are {num_classes}, numbered 0 … {num_classes - 1}")
    return index


def _check_confusion(probabilities: Tensor, top: int, overlap: float, largest: int | None) -> None:
    if not isinstance(probabilities, Tensor) or not probabilities.is_floating_point():
        found = probabilities.dtype if isinstance(probabilities, Tensor) else type(probabilities).__name__
        raise TypeError(f"the probabilities are {found}; give a floating-point tensor [N, K]")
    if probabilities.dim() != 2 or probabilities.shape[0] < 1 or probabilities.shape[1] < 3:
        raise ValueError(f"the probabilities have shape {list(probabilities.shape)}; give [N, K] with K of 3 or more")
    check_finite("the probabilities", probabilities)
    if not 2 <= top < probabilities.shape[1]:
        raise ValueError(f"top must be from 2 to {probabilities.shape[1] - 1}, one less than the classes, got {top}")
    check_number("overlap", overlap, above=0, most=1)
    if largest is not None:
        check_integer("largest", largest, least=2)


def _among_the_first(probabilities: Tensor, top: int) -> Tensor:
    """Return ``[N, K]``, 1 where a class ranks above the best one that is not among the first ``top``."""
    best_outside = probabilities.sort(dim=1, descending=True).values[:, top : top + 1]
    return (probabilities > best_outside).to("cpu", torch.float64)


def _likeness(chosen: Tensor) -> np.ndarray:
    """Return ``[K, K]``: ``n_ij / (n_i + n_j - n_ij)``, 0 where neither class occurs."""
    n_ij = chosen.T @ chosen
    n_i = n_ij.diagonal()
    return (n_ij / (n_i[:, None] + n_i[None] - n_ij).clamp(min=1)).numpy()


def _joined_while_alike(likeness: np.ndarray, overlap: float, largest: int | None) -> list[tuple[int, ...]]:
    """Cluster by average linkage. A merged group has the row of its lowest class; -1 marks pairs not to be merged."""
    alike = likeness.copy()
    np.fill_diagonal(alike, -1.0)
    groups: dict[int, tuple[int, ...]] = {index: (index,) for index in range(len(alike))}
    sizes = np.ones(len(alike))
    while True:
        a, b = map(int, np.unravel_index(alike.argmax(), alike.shape))  # the first of equals, so a < b
        if alike[a, b] < overlap:
            return list(groups.values())
        # the mean over all pairs is the mean of the two halves' means, weighted by their sizes
        mean = (sizes[a] * alike[a] + sizes[b] * alike[b]) / (sizes[a] + sizes[b])
        barred = (alike[a] < 0) | (alike[b] < 0)
        sizes[a] += sizes[b]
        if largest is not None:
            barred |= sizes + sizes[a] > largest
        alike[a] = alike[:, a] = np.where(barred, -1.0, mean)
        alike[b] = alike[:, b] = -1.0
        groups[a] = tuple(sorted(groups[a] + groups.pop(b)))
