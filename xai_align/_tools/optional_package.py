"""Errors that say how to install a package of an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def optional_package(extra: str, package: str, purpose: str) -> Iterator[None]:
    """Within it, imports of a missing package raise an error that names the extra to install.

    Args:
        extra: the extra of xai-align that has the package.
        package: its name on the package index.
        purpose: plural noun phrase that starts the message, "tables in Parquet".

    Raises:
        ModuleNotFoundError: an import within found no such module.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        text = f"{purpose} need the package {package} ({error}): pip install 'xai-align[{extra}]'"
        raise ModuleNotFoundError(text, name=error.name) from error
