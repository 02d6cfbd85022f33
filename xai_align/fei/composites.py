"""Composites of images and references, and a network's answers for them; shared by the solvers.

    Phi(alpha; r) = alpha * x + (1 - alpha) * r

for images ``x``, masks ``alpha`` of one channel and references ``r``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from xai_align._tools.batches import rows_of
from xai_align._tools.counted import counted
from xai_align._tools.images import check_images
from xai_align._tools.logits import select_logits
from xai_align._tools.memory_format import fastest_format
from xai_align._tools.replica import Replica
from xai_align.features.run_with_features import cloned
from xai_align.pinet.input_checks import (
    check_independent,
    check_inputs,
    check_logits,
    check_model,
    check_repeats,
    forward_arguments,
    named_gradient_errors,
)
from xai_align.question import Question, answers, as_questions


def composite(x: Tensor, alpha: Tensor, r: Tensor) -> Tensor:
    """Return ``Phi(alpha; r) = alpha * x + (1 - alpha) * r``, exactly ``x`` where alpha is 1 and ``r`` where it is 0.

    Args:
        x: images ``[N, C, H, W]``.
        alpha: ``M`` masks for each, ``[N, M, H, W]``.
        r: the reference, ``[1 or N, C or 1, H or 1, W or 1]``.

    Returns:
        ``[N, M, C, H, W]``.
    """
    return torch.lerp(r[:, None].to(x), x[:, None], alpha[:, :, None].to(x))


class Interception(Protocol):
    """Function that opens a copy of a network inside which gradients are changed, such as by clipping."""

    def __call__(
        self, model: nn.Module, images: Tensor, additional_forward_args: tuple[Any, ...], /
    ) -> AbstractContextManager[tuple[nn.Module, tuple[str, ...]]]:
        """Return a context manager that yields the copy, and the names of the layers whose gradients it changes."""


@dataclass
class AnswerRange:
    """Smallest and largest answer about each image and its composites so far, ``[N]``; None before the first."""

    lowest: Tensor | None = None
    highest: Tensor | None = None

    def include(self, found: Tensor) -> None:
        """Take in answers ``[N, M]``."""
        low, high = found.detach().aminmax(dim=1)
        self.lowest = low if self.lowest is None else torch.minimum(self.lowest, low)
        self.highest = high if self.highest is None else torch.maximum(self.highest, high)

    @property
    def width(self) -> Tensor:
        """Largest answer less the smallest, ``[N]``."""
        assert self.lowest is not None
        assert self.highest is not None
        return self.highest - self.lowest


@dataclass(frozen=True)
class CompositeAnswers:
    """Network that computes answers for composites of some images.

    Attributes:
        inputs: the images ``[N, C, H, W]``, detached, in the dtype of masks: float32, or float64 for float64.
        clipped: the activations whose gradients are clipped, e.g. "features.1 (relu)".
        model: the copy of the network that runs; it may have hooks.
        memory_format: the format in which it is given composites.
        autocast: opens the caller's autocast, in which the network runs, and nothing else.
        span: range of the answers so far, that about the unchanged image included.
    """

    inputs: Tensor
    clipped: tuple[str, ...]
    model: nn.Module
    questions: tuple[Question, ...]
    extra: tuple[Any, ...]
    dtype: torch.dtype
    memory_format: torch.memory_format
    autocast: Callable[[], AbstractContextManager[Any]]
    span: AnswerRange = field(default_factory=AnswerRange)

    def __call__(self, composites: Tensor) -> Tensor:
        """Return answers ``[N, M]`` for composites ``[N, M, C, H, W]``, by each image's own question."""
        n, m = composites.shape[:2]
        # image-major, as the clipping expects: the copies of an image are adjacent
        rows = torch.arange(n, device=composites.device).repeat_interleave(m)
        # always a copy: ``contiguous`` would leave a batch of one with strides that convolutions take for another
        # format; the same image would be rounded in two ways, and where a mask hides everything, rounding decides
        # which of many equal pixels a max pooling selects
        x = composites.flatten(0, 1).to(self.dtype).clone(memory_format=self.memory_format)
        with self.autocast():
            logits = select_logits(self.model(x, *rows_of(cloned(self.extra), rows, n)))
        logits = logits.to(self.inputs.dtype).unflatten(0, (n, m))
        # answers(questions, logits), all copies of an image at once
        each = [torch.vmap(question.answer)(row) for question, row in zip(self.questions, logits, strict=True)]
        found = torch.stack(each)
        if composites.requires_grad and not found.requires_grad:
            raise ValueError(
                "the answers have no gradient: the model detaches its inputs, or works under no_grad; "
                "masks are found by gradients"
            )
        self.span.include(found)
        return found


@contextmanager
def composite_answers(
    model: nn.Module,
    inputs: Tensor,
    questions: Sequence[Question],
    *,
    additional_forward_args: Any = None,
    intercept: Interception | None = None,
) -> Iterator[CompositeAnswers]:
    """Yield a copy of the network, with grad mode enabled. The network itself is not changed.

    Args:
        model: gives logits ``[N, ...]``; in eval mode.
        inputs: images ``[N, C, H, W]``.
        questions: one for each image.
        additional_forward_args: further arguments of the model; tensors of the batch's length are repeated for
            the composites.
        intercept: change of the gradients inside the copy; None: they are the network's.

    Raises:
        TypeError, ValueError: the model or the inputs are invalid, or the logits of the images are not finite, or
            others at a second pass or in a larger batch.
    """
    check_image_model(model, inputs)
    asked = as_questions(list(questions), len(inputs))
    extra = forward_arguments(additional_forward_args)
    with torch.inference_mode(False), torch.enable_grad(), named_gradient_errors():
        memory_format = fastest_format(model, inputs, extra)
        x = inputs.detach().clone(memory_format=memory_format)  # a normal tensor, also of one from inference mode
        with torch.no_grad():  # fail early if something is wrong with the network or a question
            logits = check_logits(select_logits(model(*cloned([x, *extra]))))
            plain = Replica(model).module  # after the pass, with the state that a model may keep
            check_repeats(logits, check_logits(select_logits(plain(*cloned([x, *extra])))))
            if len(logits) != len(x):
                raise ValueError(
                    f"the model returned {list(logits.shape)} for {counted(len(x), 'image')}; it must return logits "
                    "[N, ...], one row for each image"
                )
            rows = torch.tensor([*range(len(x)), 0], device=x.device)
            more = torch.cat([x, 1 - x[:1]])  # another image at the end
            check_independent(logits, select_logits(plain(more, *rows_of(cloned(extra), rows, len(x))))[:-1])
            wide = torch.float64 if x.dtype == torch.float64 else torch.float32
            span = AnswerRange()
            span.include(answers(asked, logits.to(wide))[:, None])
        opened = nullcontext((plain, ())) if intercept is None else intercept(model, x, extra)
        with opened as (copy, clipped):
            device = x.device.type
            autocast = partial(
                torch.autocast,
                device,
                dtype=torch.get_autocast_dtype(device),
                enabled=torch.is_autocast_enabled(device),
            )
            with torch.autocast(device, enabled=False):  # masks, references and losses are in full precision
                yield CompositeAnswers(
                    x.to(wide), clipped, copy, tuple(asked), extra, x.dtype, memory_format, autocast, span
                )


def check_image_model(model: nn.Module, inputs: Tensor) -> None:
    """Raise if ``model`` cannot be explained, or ``inputs`` are not images for it.

    Raises:
        TypeError: not an ``nn.Module``, or not a floating-point tensor.
        ValueError: the model is in train mode; the images are not ``[N, C, H, W]``, not finite, or of another dtype
            or device than the model.
    """
    check_model(model)
    check_images("the inputs", inputs, finite=False)
    check_inputs(model, [inputs])
