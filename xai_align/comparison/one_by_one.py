"""Trying many at once, and each by itself where that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

_Done = TypeVar("_Done")
_Item = TypeVar("_Item")


def one_by_one(
    run: Callable[[Sequence[_Item]], _Done],
    items: Sequence[_Item],
    failed: Callable[[_Item, Exception], None],
) -> Iterator[tuple[Sequence[_Item], _Done]]:
    """``run`` on all items, or where that raises on each by itself; those on which it raises again are told."""
    if not items:
        return
    try:
        done = run(items)
    except Exception as error:  # methods, metrics and models are anyone's and may raise anything
        if len(items) == 1:
            failed(items[0], error)
            return
    else:
        yield items, done
        return
    for item in items:
        yield from one_by_one(run, [item], failed)


def said(error: Exception) -> str:
    """What an error says, or its kind if it says nothing."""
    return str(error) or type(error).__name__
