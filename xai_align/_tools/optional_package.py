"""Errors that say how to install an optional package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def optional_package(extra: str | None, package: str, purpose: str) -> Iterator[None]:
    """Make imports of a missing package in the block raise an error that names what to install.

    Args:
        extra: the extra of xai-align that has the package; None: no extra has it, and it is installed by itself.
        package: its name on the package index.
        purpose: plural noun phrase that starts the message, "tables in Parquet".

    Raises:
        ModuleNotFoundError: an import within found no such module.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        wanted = package if extra is None else f"'xai-align[{extra}]'"
        text = f"{purpose} need the package {package} ({error}): pip install {wanted}"
        raise ModuleNotFoundError(text, name=error.name) from error
