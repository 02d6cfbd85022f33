"""Check that results are not written among the images that they are made from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from xai_align._tools.files.legible import legible


def check_folder_is_outside(out: str | Path, images: str | Path, *, inner: Iterable[str] = ()) -> None:
    """Raise if a folder for results is a folder of images, or lies in it.

    The next run, one that resumes among them, would take pictures of the results for images.

    Args:
        out: the folder for results.
        images: the folder of images.
        inner: names of folders in it that pictures are written to, which are checked, too.

    Raises:
        ValueError: it is, or does.

    Example::

        check_folder_is_outside("results", "photographs")  # ValueError for "photographs/results"
    """
    results = {Path(out): "--out is"} | {Path(out) / name: "pictures of --out are in" for name in inner}
    for folder, what in results.items():
        if folder.expanduser().resolve().is_relative_to(Path(images).expanduser().resolve()):
            raise ValueError(
                f"{what} '{legible(folder)}', which is in the image folder '{legible(Path(images))}': the next run "
                "would take its pictures for images; give a folder beside it"
            )
