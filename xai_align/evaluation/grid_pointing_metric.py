"""The grid pointing game as a metric by name: a grid around each image, filled with images of a pool.

In a comparison the pool is its first 64 images. An image's value is the share of the positive attribution for its own
class in its own cell; it depends on the image and the pool, and not on the images that are judged with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from xai_align._tools.checks import check_integer
from xai_align._tools.drawn import integer_below, permutation
from xai_align.evaluation.does_not_apply import MetricDoesNotApply
from xai_align.evaluation.grid_pointing_game import (
    CONFIDENCE,
    cell_share,
    check_maps,
    check_pictures,
    predictions,
    probabilities,
    tile_pictures,
)
from xai_align.question import Question, as_questions


def grid_pointing_metric(n: int) -> Callable[..., Tensor]:
    """Return the metric for grids of ``n x n`` images, scaled down to the size of one.

    The explained class replaces a label: an image has a value if the network, given only this image, predicts that
    class with a probability over one half, and the other cells get images of the pool for which the same is true of
    other classes, one each. They and the cells are drawn with a seed computed from the image's content. NaN for other
    images, and where the pool has too few classes other than the image's own.
    """
    check_integer("n", n, least=2)

    def evaluate(
        forward_func: Callable[..., Tensor],
        inputs: Tensor,
        attributions: Tensor,
        *,
        target: Any = None,
        explain: Callable[[Tensor, Any], Tensor],
        other_images: Tensor,
    ) -> Tensor:
        """Compute each image's share ``[N]``; ``attributions`` are not used, as grids are explained separately.

        Raises:
            MetricDoesNotApply: a question is about more than one class, or the pool has too few classes.
            ValueError: images or maps don't fit.
            TargetError: the network does not have a class.
        """
        check_pictures(inputs)
        check_pictures(other_images)
        pool = other_images.to(inputs)
        if pool.shape[1:] != inputs.shape[1:]:
            raise ValueError(f"the pool has images {list(pool.shape[1:])}, the inputs are {list(inputs.shape[1:])}")
        of_pool, p_pool = predictions(forward_func, pool)
        p = probabilities(forward_func, inputs)
        asked = _classes_of(p, target)
        known = set(of_pool[p_pool > CONFIDENCE].tolist())
        if all(len(known - {own}) < n * n - 1 for own in asked):
            raise MetricDoesNotApply(
                f"a grid of {n} x {n} needs {n * n - 1} classes beside the image's own; the {len(pool)} other images "
                f"have {len(known)} that the network predicts with a probability above {CONFIDENCE:g}"
            )
        right = p[range(len(p)), asked] > CONFIDENCE
        grids, cells, rows = [], [], []
        for row, image in enumerate(inputs):
            drawn = _drawn(image, asked[row], of_pool, p_pool, n) if bool(right[row]) else None
            if drawn is not None:
                others, cell = drawn
                pictures = [*pool[others[:cell]], image, *pool[others[cell:]]]
                grids.append(tile_pictures(torch.stack(pictures)[None], scaled=True)[0])
                cells.append(cell)
                rows.append(row)
        values = torch.full((len(inputs),), torch.nan, dtype=torch.float64)
        if rows:
            tiled = torch.stack(grids)
            maps = explain(tiled, [Question.why(asked[row]) for row in rows])
            check_maps(maps, tiled)
            values[rows] = cell_share(maps.detach().cpu(), torch.tensor(cells), n=n)
        return values

    return evaluate


def _classes_of(p: Tensor, target: Any) -> list[int]:
    """Return the class, from 0, that each image's question is about, from probabilities ``[N, K]``.

    None: the predicted one.
    """
    if target is None:
        return p.argmax(1).tolist()
    questions = as_questions(target, len(p))
    if any(one.foils != () or len(one.targets) != 1 or len(one.targets[0]) != 1 for one in questions):
        raise MetricDoesNotApply("this metric needs questions about one class, 'why'")
    return [one.entries(row)[0][0] for one, row in zip(questions, p, strict=True)]


def _drawn(image: Tensor, own: int, of_pool: Tensor, p_pool: Tensor, n: int) -> tuple[list[int], int] | None:
    """Return ``n * n - 1`` of the pool, of different classes, and the image's cell; None if there are too few."""
    content = crc32(image.detach().float().cpu().contiguous().numpy().tobytes())
    generator = torch.Generator().manual_seed(content)
    order: Sequence[int] = permutation(len(of_pool), generator).tolist()
    chosen: dict[int, int] = {}
    for index in order:
        label = int(of_pool[index])
        if label != own and float(p_pool[index]) > CONFIDENCE:
            chosen.setdefault(label, index)
    if len(chosen) < n * n - 1:
        return None
    cell = integer_below(n * n, generator)
    return list(chosen.values())[: n * n - 1], cell
