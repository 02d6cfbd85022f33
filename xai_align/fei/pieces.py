"""Preparation of images and questions for a solver, which takes a few images at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_integer
from xai_align._tools.did_you_mean import did_you_mean
from xai_align.features.unwrapping import unwrapped
from xai_align.fei.clipped_gradient import check_images
from xai_align.fei.curve_options import CurveOptions
from xai_align.fei.nested_options import NestedOptions
from xai_align.pinet.input_checks import check_logits, check_model, forward_arguments
from xai_align.question import Question, QuestionModel, as_questions

#: Number of images processed at once. A solver has one or two composites of each in a forward pass (five for all
#: quantiles in parallel), and the backward pass needs all activations: more would need memory without a speed-up.
AT_ONCE = 8
#: Arguments of a solver that are not options.
_GIVEN = frozenset(("model", "inputs", "questions", "additional_forward_args", "progress", "warn", "changed"))


#: The dataclass of options of each solver that has one.
OPTIONS: Mapping[str, Any] = {"curve_masks": CurveOptions, "nested_masks": NestedOptions}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Batch of the images with their questions and options.

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
    def counted(self) -> Iterator[None]:
        """Add a note on the numbering of examples to errors inside the block."""
        try:
            yield
        except Exception as error:
            if self.first:
                last = self.first + len(self.inputs) - 1
                error.add_note(f"(these were images {self.first} … {last} of the batch; examples count from there)")
            raise


def asked_pieces(
    model: nn.Module,
    inputs: Tensor,
    question: Any,
    *,
    internal_batch_size: int | None,
    additional_forward_args: Any,
    options: Mapping[str, Any],
) -> tuple[nn.Module, list[Piece]]:
    """Return the unwrapped network, and the images in batches.

    Args:
        model: a network, perhaps compiled, data-parallel, or in a ``QuestionModel``.
        inputs: images ``[N, C, H, W]``.
        question: a question, one for each image, any target that Captum takes; for a ``QuestionModel`` the target
            that ``ask`` gave. None: the predicted class.
        internal_batch_size: number of images per batch; None: :data:`AT_ONCE`.
        additional_forward_args: tensors of length ``N`` are split with the images.
        options: so are tensors ``[N, ...]`` with three axes or more, such as baselines.

    Raises:
        TypeError, ValueError: the model, the inputs or the batch size is invalid.
        TargetError: the question does not fit the images or the output.
    """
    size = AT_ONCE if internal_batch_size is None else check_integer("internal_batch_size", internal_batch_size)
    asker, _ = unwrapped(model)
    network = unwrapped(asker.model)[0] if isinstance(asker, QuestionModel) else asker
    check_model(network)
    check_images(network, inputs)
    count = len(inputs)
    extra = forward_arguments(additional_forward_args)
    parts = [slice(first, min(first + size, count)) for first in range(0, count, size)]
    if isinstance(asker, QuestionModel):
        questions = asker.questions_for(question, count)
    elif question is None:
        questions = [
            one for here in parts for one in _predicted(network, inputs[here], _of_these(extra, here, count, axes=1))
        ]
    else:
        questions = as_questions(question, count)
    return network, [
        Piece(
            first=here.start,
            inputs=inputs[here],
            questions=questions[here],
            options={
                **dict(zip(options, _of_these(tuple(options.values()), here, count, axes=3), strict=True)),
                "additional_forward_args": _of_these(extra, here, count, axes=1) or None,
            },
        )
        for here in parts
    ]


def options_of(solve: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a solver with their defaults: its keywords, and the fields of its dataclass of options."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(solve).parameters.items():
        if name == "options":
            found |= {field.name: field.default for field in fields(OPTIONS[solve.__name__])}
        elif name not in _GIVEN:
            found[name] = parameter.default
    return found


def in_one(solve: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as single values, those of a record ``options=`` among them.

    Raises:
        TypeError: the solver does not have one of them, with those that it has; or the record is another solver's.
    """
    single = {name: value for name, value in options.items() if name != "options"}
    record = options.get("options")
    if record is not None:
        wanted = OPTIONS.get(solve.__name__)
        if wanted is None or not isinstance(record, wanted):
            raise TypeError(
                f"options of {solve.__name__} are {type(record).__name__}; give "
                f"{'no record' if wanted is None else f'{wanted.__name__}(...)'}"
            )
        single = {field.name: getattr(record, field.name) for field in fields(record)} | single
    known = list(options_of(solve))
    for name in single:
        if name not in known:
            near = did_you_mean(name, known)
            raise TypeError(f"{solve.__name__} has no option '{name}'{near} It has {', '.join(known)}")
    return single


def seeded(options: Mapping[str, Any], generator: torch.Generator | None) -> dict[str, Any]:
    """Return the options with one seed for all batches: the given one, or one drawn from ``generator``, or 0.

    Raises:
        TypeError: the generator is not a ``torch.Generator``, or there is a seed as well.
    """
    if generator is None:
        return {"seed": 0, **options}
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator is a {type(generator).__name__}; give a torch.Generator, or seed=...")
    if "seed" in options:
        raise TypeError("there is a generator and a seed; give one of them")
    return {**options, "seed": int(torch.randint(2**31, (), generator=generator, device=generator.device))}


def _predicted(network: nn.Module, inputs: Tensor, extra: tuple[Any, ...]) -> list[Question]:
    """Return the question about the class with the largest logit; a single output needs no class."""
    with torch.no_grad():
        logits = check_logits(network(inputs, *extra))
    if logits[0].numel() == 1:
        return [Question(((0,) * (logits.dim() - 1),))] * len(inputs)
    if logits.dim() != 2:
        raise ValueError(
            f"no question was given and the output has shape {list(logits.shape)}, where no class is the predicted "
            "one; name an entry, e.g. (class, row, column)"
        )
    return as_questions(logits.argmax(1), len(inputs))


def _of_these(values: tuple[Any, ...], here: slice, count: int, *, axes: int) -> tuple[Any, ...]:
    """Select these images from values that are tensors with an entry for each of ``count`` images."""

    def belongs_to_images(value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() >= axes and count > 1 and len(value) == count

    return tuple(value[here] if belongs_to_images(value) else value for value in values)
