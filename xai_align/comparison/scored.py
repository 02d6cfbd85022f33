"""Scores from outside in a comparison: as the explanation of a batch, and as cells for agreement with other maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xai_align.comparison.example import Example, inputs_of
from xai_align.evaluation.agreement import Scored
from xai_align.explanation import Explanation
from xai_align.question import answers

if TYPE_CHECKING:
    from xai_align.comparison.method_reference import MethodReference
    from xai_align.data.outside_scores import OutsideScores


def scored(method: MethodReference, batch: Sequence[Example]) -> Explanation:
    """Return scores from outside as the explanation of a batch, the same for every question.

    Raises:
        ValueError: there are none of an image.
    """
    assert method.scores is not None
    inputs, questions = inputs_of(batch), [one.question for one in batch if one.question is not None]
    maps = torch.stack([method.scores.on_input(one.path, _positions(one)) for one in batch]).to(inputs)
    logits = torch.stack([one.logits for one in batch])
    channels = inputs.shape[1]
    return Explanation(
        method=method.name,
        questions=tuple(questions),
        attribution=(maps / channels)[:, None].expand(-1, channels, -1, -1),
        answer=answers(questions, logits),
        logits=logits,
        seconds=0.0,
        values=method.spec.values,
        signed=bool(method.spec.signed),
    )


def has_scores(scores: OutsideScores, example: Example) -> bool:
    """Return whether there is a grid of scores of this image."""
    try:
        return scores.of(example.path).ndim == 2
    except ValueError:
        return False


def scored_cells(scores: OutsideScores, example: Example) -> Scored:
    """Return the scores of the cells that the model's input shows, and the cell of each of its pixels.

    Pixels outside the photograph are a separate cell with score 0.
    """
    values = torch.from_numpy(scores.of(example.path))
    rows, columns = values.shape
    at = _positions(example)
    column, row = ((at[..., i].nan_to_num() * size).long().clamp(0, size - 1) for i, size in enumerate((columns, rows)))
    labels = (row * columns + column).where(~at.isnan().any(-1), torch.tensor(rows * columns))
    every = torch.cat([values.flatten(), values.new_zeros(1)])
    return Scored(values=every[labels.unique()], labels=labels)


def _positions(example: Example) -> Tensor:
    assert example.positions is not None
    return example.positions.cpu()
