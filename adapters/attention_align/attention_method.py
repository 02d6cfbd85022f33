"""Methods that read attention matrices, with Captum's call: from relevance of tokens to maps of the input's shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attention_align.attention_trace import AttentionTrace, trace_attention
from xai_align.adapter_tools import batches_of, check_evaluation_mode, resize_keeping_sum, restores_thread_state
from xai_align.features.spatial import token_grid
from xai_align.features.token_space import token_space
from xai_align.features.unwrapping import unwrapped
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.input_checks import forward_arguments
from xai_align.question import Question, QuestionModel, TargetError, answers, as_questions


class AttentionMethod(ABC):
    """Method on the attention matrices of a vision transformer; subclasses compute the relevance of its tokens.

    A token's relevance is spread evenly over the pixels of its patch and their channels, which keeps the sum. Tokens
    without a place (class, distillation, register) are left out.

    Args:
        forward_func: an ``nn.Module`` on one batch of images, or a ``QuestionModel`` of one.

    Raises:
        TypeError: the model is not an ``nn.Module``.
    """

    #: Name in tables and messages.
    name: ClassVar[str]
    #: Attribute that Captum's code uses.
    multiplies_by_inputs = False

    def __init__(self, forward_func: Any) -> None:
        if not isinstance(forward_func, nn.Module):
            raise TypeError(f"{self.name} looks into a torch.nn.Module, got {type(forward_func).__name__}")
        self.forward_func = forward_func

    @abstractmethod
    def relevance(self, trace: AttentionTrace, questions: list[Question]) -> Tensor:
        """Return the relevance of all tokens, ``[N, L]``."""

    @restores_thread_state
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = 4,
    ) -> Any:
        """Return the map in the shape of ``inputs``, detached.

        Args:
            inputs: images ``[N, C, H, W]``, or a tuple of one such tensor.
            target: any target of Captum's methods, numpy integers and arrays, or an ``xai_align.Question``.
            additional_forward_args: further arguments of the model.
            internal_batch_size: number of images whose attention matrices are in memory at once; None: all.

        Raises:
            TargetError: (an AssertionError) the target does not fit the output.
            ValueError: the inputs are not images, the model is in train mode, or it has no attention that this method
                can follow.
        """
        images = self._one_batch_of_images(inputs)
        extra = forward_arguments(additional_forward_args)
        model, questions = _asked(self.forward_func, target, len(images))
        check_evaluation_mode(model)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autocast(images.device.type, enabled=False))
            own = images.detach().clone()  # the copy of an inference tensor is an ordinary tensor
            parts = [
                self._maps(model, batch.inputs[0], batch.target, batch.extra or ())
                for batch in batches_of((own,), questions, extra, internal_batch_size)
            ]
        maps = torch.cat(parts).to(images.dtype)
        attributions = (maps.unsqueeze(1) / images.shape[1]).expand_as(images).contiguous()
        return (attributions,) if isinstance(inputs, tuple) else attributions

    def _maps(self, model: nn.Module, images: Tensor, questions: list[Question], extra: tuple[Any, ...]) -> Tensor:
        """Return maps ``[N, H, W]``."""
        try:
            trace = trace_attention(model, images, extra)
            space = _space(model, images, trace.weights[0].shape[-1])
            answers(questions, trace.logits)  # even where it isn't needed: a wrong target is an error
            relevance = self.relevance(trace, questions).detach()
        except ValueError as error:
            if not isinstance(error, TargetError):
                error.add_note(f"(while explaining {type(model).__name__} by {self.name})")
            raise
        size = (images.shape[-2], images.shape[-1])
        cells = relevance[:, space.prefix_tokens :]
        rows, columns = token_grid(space, cells.shape[1], size)
        cells = space.to_raster(cells) if space.to_raster else cells
        return resize_keeping_sum(cells.reshape(len(cells), rows, columns), size)

    def _one_batch_of_images(self, inputs: Any) -> Tensor:
        images = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(images) != 1 or not isinstance(images[0], Tensor) or images[0].dim() != 4:
            shapes = ", ".join(str(list(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in images)
            raise ValueError(f"{self.name} explains one batch of images [N, C, H, W], got {shapes}")
        return images[0]

    def has_convergence_delta(self) -> bool:
        """Return False: these maps have no sum to converge to."""
        return False

    def get_name(self) -> str:
        """Return the method's name in tables."""
        return self.name


def _asked(model: nn.Module, target: Any, num_examples: int) -> tuple[nn.Module, list[Question]]:
    """Return the network itself and one question per example."""
    model, _ = unwrapped(model)
    if not isinstance(model, QuestionModel):
        return model, as_questions(target, num_examples)
    if isinstance(target, Question) or (isinstance(target, list) and any(isinstance(t, Question) for t in target)):
        raise TargetError("this model answers questions already; give the target that ask() gave, or the plain model")
    return unwrapped(model.model)[0], model.questions_for(target, num_examples)


def _space(model: nn.Module, images: Tensor, tokens: int) -> FeatureSpace:
    space = token_space(model, images[:1], tokens)
    if space is None:
        raise ValueError(
            f"found no softmax attention over tokens that form a grid in {type(model).__name__}: its attention is over "
            f"{tokens} entries, and no layer gives so many tokens, with or without class tokens, in a grid like the "
            f"image of {images.shape[-2]} x {images.shape[-1]}"
        )
    return space
