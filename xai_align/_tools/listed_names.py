"""Names in the order of a model's outputs, from a list or from a dictionary of indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def listed_names(names: Mapping[Any, Any] | Iterable[Any]) -> tuple[str, ...]:
    """Return names in the order of the outputs.

    Args:
        names: a list of names; or a dictionary, either of indices (numbers, or texts of numbers as JSON has them) to
            names, like Hugging Face's ``id2label``, or of names to indices, like torchvision's ``class_to_idx``.

    Raises:
        ValueError: the indices are not 0, 1, ..., each once; or a name is not text, or is empty.

    Example::

        >>> listed_names({"1": "dog", "0": "cat"})
        ('cat', 'dog')
    """
    if isinstance(names, str):
        raise ValueError(f"the class names are one string, {names[:60]!r}; give a list of names")
    found = _by_index(names) if isinstance(names, Mapping) else list(names)
    for index, name in enumerate(found):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"the name of class {index} is {name!r}; a name is a text that is not empty")
    return tuple(found)


def _by_index(names: Mapping[Any, Any]) -> list[Any]:
    indices = [_index(key) for key in names]
    if None in indices:
        odd = next((name for name in names.values() if not isinstance(name, str | int)), None)
        if odd is not None:
            raise ValueError(
                f"the class names are a dictionary with a {type(odd).__name__} in it; give indices and names, such as "
                '{"0": "cat", "1": "dog"}'
            )
        names = {index: name for name, index in names.items()}
        indices = [_index(key) for key in names]
    if sorted(one for one in indices if one is not None) != list(range(len(indices))):
        shown = ", ".join(map(repr, list(names)[:4]))
        raise ValueError(
            f"the class names are a dictionary of {shown} ...; it should have the indices 0, 1, ..., {len(names) - 1}, "
            "each once, as keys or as values"
        )
    return [name for _, name in sorted(zip(indices, names.values(), strict=True), key=lambda pair: pair[0] or 0)]


def _index(key: Any) -> int | None:
    if isinstance(key, bool):
        return None
    if isinstance(key, int):
        return key
    return int(key) if isinstance(key, str) and key.strip().isdecimal() else None
