"""Validation of a data set before training, so that mistakes are found at once.

Of a larger data set :data:`CHECKED_ITEMS` items, evenly spread, are checked; the others
are checked when they are put into a batch.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from xai_align._tools.callers_level import callers_level
from xai_align.training.pinet.items import Collate

#: Number of items of a large data set that are checked.
CHECKED_ITEMS = 2000


class FittingDataWarning(UserWarning):
    """Warning about usable data that are probably not as intended."""


def validate_dataset(data: Any, collate: Collate, *, name: str, with_masks: bool = False) -> dict[str, Any]:
    """Check a data set: raise on invalid items, warn about suspicious ones.

    Args:
        data: a map-style data set.
        collate: checks the items.
        name: name of the data set in messages, e.g. "the training data".
        with_masks: whether the loss has a term for masks, so that some must be known.

    Returns:
        What identifies the data set: the number of "examples", and a digest of the checked "targets".

    Raises:
        TypeError: it is not a map-style data set, or an item has a wrong type.
        ValueError: it is empty, an item is invalid (the message says which), all images are constant, or no
            mask is known in a data set of which all items were checked.

    Warns:
        FittingDataWarning: classes without examples, constant images, no mask among those that were checked.
    """
    count = length_of(data, name)
    numbers: Sequence[int] = range(count)
    if count > CHECKED_ITEMS:
        numbers = [round(i * (count - 1) / (CHECKED_ITEMS - 1)) for i in range(CHECKED_ITEMS)]
    digest, classes, constant, any_mask = hashlib.sha256(), set[int](), [], False
    for number in numbers:
        try:
            image, target, mask = collate.item(data[number])
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}, item {number}: {error}") from error
        digest.update(target.numpy().tobytes())
        classes.update(_classes_of(target, collate))
        any_mask = any_mask or (mask is not None and not bool(mask.isnan().all()))
        constant += [number] if _is_constant(image) else []
    if len(constant) == len(numbers):
        raise ValueError(f"{name}: every image is constant, so there is nothing to localise")
    if constant:
        _warn(
            f"{name}: {len(constant)} of {len(numbers)} images {'is' if len(constant) == 1 else 'are'} constant "
            "(item(s) "
            f"{_some(constant)}); nothing can be localised in them"
        )
    if with_masks and not any_mask:
        message = (
            f"{name}: the loss has a term for masks, and none of the {len(numbers)} items that were checked has a mask "
            "that is known anywhere; give (image, target, mask) with 1 where the class is, 0 where it isn't and NaN "
            "where nothing is known, or masks=0"
        )
        if count == len(numbers):
            raise ValueError(message)
        _warn(message)
    if collate.labelled and collate.task != "regression":
        expected = range(2 if collate.classes == 1 else collate.classes)
        if absent := [number for number in expected if number not in classes]:
            _warn(
                f"{name}: {len(absent)} of {len(expected)} classes {'has' if len(absent) == 1 else 'have'} no "
                f"example (class {_some(absent)}) among the "
                f"{len(numbers)} that were checked; results for them are meaningless"
            )
    return {"examples": count, "targets": digest.hexdigest()[:16]}


def length_of(data: Any, name: str) -> int:
    """Return the number of items.

    Raises:
        TypeError: it has no ``__len__`` or no ``__getitem__``.
        ValueError: there are none.
    """
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise TypeError(
            f"{name} are a {type(data).__name__} without length or items by number; "
            "give a map-style data set (__len__ and __getitem__), so that a run can be repeated and resumed"
        )
    if not len(data):
        raise ValueError(f"{name} are empty; give at least one example")
    return len(data)


def _classes_of(target: Tensor, collate: Collate) -> Iterator[int]:
    """Yield the classes of an example."""
    if not collate.labelled or collate.task == "regression":
        return
    if collate.task == "multiclass":
        yield int(target)
    elif collate.task == "binary":
        yield int(target > 0.5)
    elif collate.task == "multilabel":
        yield from (target > 0.5).nonzero().flatten().tolist()
    elif target.is_floating_point():
        yield from (target > 0.5).flatten(1).any(1).nonzero().flatten().tolist()
    else:
        yield from target.unique().tolist()


def _is_constant(image: Tensor) -> bool:
    flat = image.flatten(1)
    return bool((flat == flat[:, :1]).all())


def _warn(message: str) -> None:
    warnings.warn(message, FittingDataWarning, stacklevel=callers_level())


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (" …" if len(numbers) > 5 else "")
