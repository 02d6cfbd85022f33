"""Micro-batches: a few images at a time, with their questions and options, for a solver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.batches import rows_of
from xai_align._tools.checks import check_integer
from xai_align._tools.logits import select_logits
from xai_align._tools.replica import Replica
from xai_align.features.run_with_features import cloned
from xai_align.features.unwrapping import unwrapped
from xai_align.fei.composites import check_image_model
from xai_align.pinet.input_checks import check_logits, forward_arguments
from xai_align.question import Question, QuestionModel, as_questions

#: Number of images processed at once. A solver has one or two composites of each in a forward pass (five for all
#: quantiles in parallel), and the backward pass needs all activations: more would need memory without a speed-up.
AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """A few of the images, with their questions and options.

    Attributes:
        first: the number of the first image among all.
        inputs: ``[n, C, H, W]``.
        questions: one for each.
        options: options of the solver, including ``additional_forward_args``.
    """

    first: int
    inputs: Tensor
    questions: Sequence[Question]
    options: dict[str, Any]

    @contextmanager
    def noted_in_errors(self) -> Iterator[None]:
        """Add a note on the numbering of examples to errors inside the block."""
        try:
            yield
        except Exception as error:
            if self.first:
                error.add_note(f"(example 0 of this message is image {self.first} of the batch)")
            raise


def micro_batches(
    model: nn.Module,
    inputs: Tensor,
    question: Any,
    *,
    internal_batch_size: int | None,
    additional_forward_args: Any,
    options: Mapping[str, Any],
) -> tuple[nn.Module, list[MicroBatch]]:
    """Return the unwrapped network, and the images in micro-batches.

    Args:
        model: a network, perhaps compiled, data-parallel, or in a ``QuestionModel``.
        inputs: images ``[N, C, H, W]``.
        question: a question, one for each image, any target that Captum takes; for a ``QuestionModel`` the target
            that ``ask`` gave. None: the predicted class.
        internal_batch_size: number of images per micro-batch; None: :data:`AT_ONCE`.
        additional_forward_args: tensors of length ``N`` are split with the images.
        options: so are tensors ``[N, ...]`` with three axes or more, such as baselines.

    Raises:
        TypeError, ValueError: the model, the inputs or the batch size is invalid.
        TargetError: the question does not fit the images or the output.
    """
    size = AT_ONCE if internal_batch_size is None else check_integer("internal_batch_size", internal_batch_size)
    asker, _ = unwrapped(model)
    network = unwrapped(asker.model)[0] if isinstance(asker, QuestionModel) else asker
    check_image_model(network, inputs)
    count = len(inputs)
    extra = forward_arguments(additional_forward_args)
    parts = [slice(first, min(first + size, count)) for first in range(0, count, size)]
    if isinstance(asker, QuestionModel):
        questions = asker.questions_for(question, count)
    elif question is None:
        copy = Replica(network).module
        questions = [one for here in parts for one in _predicted(copy, inputs[here], rows_of(extra, here, count))]
    else:
        questions = as_questions(question, count)
    return network, [
        MicroBatch(
            first=here.start,
            inputs=inputs[here],
            questions=questions[here],
            options={
                **dict(zip(options, rows_of(options.values(), here, count, axes=3), strict=True)),
                "additional_forward_args": rows_of(extra, here, count) or None,
            },
        )
        for here in parts
    ]


def _predicted(network: nn.Module, inputs: Tensor, extra: tuple[Any, ...]) -> list[Question]:
    """Return the question about the class with the largest logit; a single output needs no class."""
    with torch.no_grad():
        logits = check_logits(select_logits(network(*cloned([inputs, *extra]))))
    if logits[0].numel() == 1:
        return [Question(((0,) * (logits.dim() - 1),))] * len(inputs)
    if logits.dim() != 2:
        raise ValueError(
            f"no question was given and the output has shape {list(logits.shape)}, where no class is the predicted "
            "one; name an entry, e.g. (class, row, column)"
        )
    return as_questions(logits.argmax(1), len(inputs))
