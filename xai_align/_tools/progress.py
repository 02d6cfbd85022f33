"""Progress bars of the library; the command line draws its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(description: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances the bar by a number of steps; it does nothing unless ``shown``.

    The bar goes to the error stream, or into the notebook, and is removed at the end.
    """
    if not shown:
        yield lambda done: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=description, leave=False) as bar:
        yield lambda done: bar.update(done) and None
