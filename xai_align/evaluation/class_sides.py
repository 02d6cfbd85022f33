"""Classes on each side of a contrast, for each example, and the probabilities of both sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from xai_align.data.groups import class_index, class_indices

if TYPE_CHECKING:
    from xai_align.perturbation.curve import Curve

#: One class for all examples, or one for each: ``[N]``.
ClassOfEach: TypeAlias = int | Sequence[int] | Tensor
#: One group of classes for all examples, or a list with one for each.
GroupOfEach: TypeAlias = Iterable[int] | Sequence[Iterable[int]]


def probabilities_of(curve: Curve) -> tuple[Tensor, Tensor]:
    """Return ``clean [N, K]`` and ``masked [N, F, K]`` in double precision.

    NaN in ``masked`` (a constant map) is allowed.

    Raises:
        ValueError: shapes or fractions that are not a curve's, a single class, values that are not probabilities.
    """
    clean, masked, fractions = curve.clean.detach().double(), curve.masked.detach().double(), curve.fractions
    if clean.dim() != 2 or masked.shape != (len(clean), len(fractions), clean.shape[1]):
        raise ValueError(
            f"the curve holds clean {list(clean.shape)}, masked {list(masked.shape)} and {len(fractions)} fractions; "
            "it must be [N, K], [N, F, K] and F"
        )
    if clean.shape[1] < 2:
        raise ValueError("the output has one class; questions about groups and foils need at least two")
    if len(fractions) < 2 or not (fractions.diff() > 0).all():
        raise ValueError(f"the fractions are {fractions.tolist()}; an area needs two or more, ascending")
    if clean.isnan().any():
        raise ValueError("the outputs for the unperturbed inputs hold NaN; check the model and the inputs")
    both = torch.cat([clean.flatten(), masked.flatten()])
    both = both[~both.isnan()]
    if both.min() < -1e-6 or both.max() > 1 + 1e-6:
        raise ValueError(
            f"the outputs range from {float(both.min()):.3g} to {float(both.max()):.3g} and are not probabilities; "
            "compute the curve with an activation, 'softmax' or 'sigmoid'"
        )
    return clean, masked


def class_of_each(classes: Any, clean: Tensor, what: str) -> Tensor:
    """Return ``[N, K]``, bool: the one class of each example; ``what`` names it in messages.

    Raises:
        TypeError: not integers.
        ValueError: classes that the output does not have, or not one for each example.
    """
    entries = classes.tolist() if hasattr(classes, "tolist") else classes
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        entries = [entries] * len(clean)
    _check_length(entries, clean, f"{what} classes")
    where = f"the {what} class"
    return _indicator([(class_index(entry, where, clean.shape[1]),) for entry in entries], clean)


def group_of_each(group: Any, clean: Tensor, where: str) -> Tensor:
    """Return ``[N, K]``, bool: the group of each example; an integer is a group of one. ``where`` is for messages.

    Raises:
        TypeError: not a collection of integers.
        ValueError: an empty group, classes that the output does not have, or not one group for each example.
    """
    entries = group.tolist() if hasattr(group, "tolist") else group
    entries = [entries] if hasattr(entries, "__index__") else entries
    if isinstance(entries, str | Mapping) or not isinstance(entries, Iterable):
        raise TypeError(f"{where} is a {type(group).__name__}; give class indices, or a list of them for each example")
    entries = list(entries)
    several = any(_is_collection(entry) for entry in entries)
    if not several:
        return _indicator([class_indices(entries, where, clean.shape[1])] * len(clean), clean)
    _check_length(entries, clean, "groups")
    return _indicator([class_indices(entry, where, clean.shape[1]) for entry in entries], clean)


def _is_collection(entry: Any) -> bool:
    return isinstance(entry.tolist() if hasattr(entry, "tolist") else entry, Iterable) and not isinstance(entry, str)


def _check_length(entries: Sequence[Any], clean: Tensor, what: str) -> None:
    if len(entries) != len(clean):
        raise ValueError(f"{len(entries)} {what} for {len(clean)} examples; give one for all, or one for each")


def _indicator(rows: Sequence[tuple[int, ...]], clean: Tensor) -> Tensor:
    chosen = torch.zeros(clean.shape, dtype=torch.bool)
    for row, classes in zip(chosen, rows, strict=True):
        row[list(classes)] = True
    return chosen.to(clean.device)


def check_apart(one: Tensor, other: Tensor) -> None:
    """Check that no class of an example is on both sides, ``[N, K]`` each.

    Raises:
        ValueError: some class is; the message names those of the first such example.
    """
    both = one & other
    if both.any():
        row = first_of(both.any(1))
        raise ValueError(
            f"classes {both[row].nonzero().flatten().tolist()} are on both sides of the contrast for example {row}; "
            "leave them on one"
        )


def total(values: Tensor, chosen: Tensor) -> Tensor:
    """Sum values ``[N, F, K]`` over each example's classes ``[N, K]``, to ``[N, F]``."""
    return (values * chosen[:, None]).sum(-1)


def first_of(rows: Tensor) -> int:
    """Return the index of the first True in ``[N]``."""
    return int(rows.nonzero()[0])
