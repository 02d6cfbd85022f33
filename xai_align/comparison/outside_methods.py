"""Methods of a comparison whose maps are scores in a file, computed elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from xai_align.comparison.method_reference import MethodReference, of_scores
from xai_align.data.outside_scores import read_scores
from xai_align.hookspecs import MetricSpec
from xai_align.plugins.metric_signature import needs_of


def methods_from_outside(
    named: Sequence[tuple[str | None, Path]],
    paths: Sequence[Path],
    compared: Sequence[MethodReference],
    measured: Sequence[MetricSpec],
) -> list[MethodReference]:
    """Return the scores in these files as methods.

    Raises:
        ValueError: scores do not fit the images, or a metric needs some and there are none.
    """
    outside = [read_scores(file, images=paths, name=name) for name, file in named]
    methods = of_scores(outside, compared)
    for one in outside:
        one.check_images(paths)
    needing = [one.name for one in measured if "scores" in needs_of(one.evaluate)]
    if needing and not outside:
        raise ValueError(f"{' and '.join(needing)} compare with scores from outside; give a file of them (--scores)")
    return methods


def named_file(given: str | Path) -> tuple[str | None, Path]:
    """Return the name and the file of ``NAME=FILE``, or of a file alone."""
    if isinstance(given, Path) or "=" not in given or os.path.exists(Path(given)):
        return None, Path(given)
    name, _, file = given.partition("=")
    return name.strip() or None, Path(file)
