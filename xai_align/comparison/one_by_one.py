"""Run many items at once, and each by itself where that fails."""

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
    """Yield ``run`` of all items, or of each by itself where that raises; ``failed`` gets those that raise again."""
    if not items:
        return
    try:
        done = run(items)
    except Exception as error:  # methods, metrics and models come from third parties and may raise anything
        if len(items) == 1:
            failed(items[0], error)
            return
    else:
        yield items, done
        return
    for item in items:
        yield from one_by_one(run, [item], failed)


def message_of(error: Exception) -> str:
    """Return the message of an error, or its type if there is none."""
    return str(error) or type(error).__name__
