"""Check that results are not written among the images that they are made from."""

from __future__ import annotations

from pathlib import Path

from xai_align._tools.files.legible import legible


def check_folder_is_outside(out: str | Path, images: str | Path, *, what: str = "--out is") -> None:
    """Raise if a folder for results is a folder of images, or lies in it.

    The next run, one that resumes among them, would take pictures of the results for images.

    Args:
        out: the folder for results, or a folder in it that pictures are written to.
        images: the folder of images.
        what: the first words of the message, for a folder in ``--out``.

    Raises:
        ValueError: it is, or does.

    Example::

        check_folder_is_outside("results", "photographs")  # ValueError for "photographs/results"
    """
    if Path(out).expanduser().resolve().is_relative_to(Path(images).expanduser().resolve()):
        raise ValueError(
            f"{what} '{legible(Path(out))}', which is in the image folder '{legible(Path(images))}': the next run "
            "would take its pictures for images; give a folder beside it"
        )
