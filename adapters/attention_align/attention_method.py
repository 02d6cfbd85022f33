"""Methods that read attention matrices: from relevance of tokens to maps of the input's shape."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from attention_align.attention_trace import AttentionTrace, trace_attention
from attention_align.captum_call import CaptumCall
from xai_align.adapter_tools import batches_of, check_evaluation_mode, full_precision, resize_keeping_sum
from xai_align.features.spatial import token_grid
from xai_align.features.token_space import token_space
from xai_align.features.unwrapping import network_of, unwrapped
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.input_checks import forward_arguments, named_gradient_errors
from xai_align.question import Question, QuestionModel, TargetError, answers, as_questions


class AttentionMethod(CaptumCall):
    """Method on the attention matrices of a vision transformer; subclasses compute the relevance of its tokens.

    A token's relevance is spread evenly over the pixels of its patch and their channels, which keeps the sum. Tokens
    without a position (class, distillation, register) are left out.
    """

    @abstractmethod
    def relevance(self, trace: AttentionTrace, questions: list[Question]) -> Tensor:
        """Return the relevance of all tokens, ``[N, L]``."""

    def attributions(
        self, images: Tensor, target: Any, additional_forward_args: Any, internal_batch_size: int | None
    ) -> Tensor:
        """Return the relevance of tokens on their pixels, in the images' shape."""
        extra = forward_arguments(additional_forward_args)
        model, questions = _asked(self.forward_func, target, len(images))
        check_evaluation_mode(model)
        with ExitStack() as stack:
            stack.enter_context(named_gradient_errors())
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(full_precision(images))
            own = images.detach().clone()  # the copy of an inference tensor is an ordinary tensor
            parts = [
                self._maps(model, batch.inputs[0], batch.target, batch.extra or ())
                for batch in batches_of((own,), questions, extra, internal_batch_size)
            ]
        maps = torch.cat(parts).to(images.dtype)
        return (maps.unsqueeze(1) / images.shape[1]).expand_as(images).contiguous()

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
        cells = relevance[:, space.patches(relevance.shape[1])]
        rows, columns = token_grid(space, cells.shape[1], size)
        cells = space.to_raster(cells) if space.to_raster else cells
        return resize_keeping_sum(cells.reshape(len(cells), rows, columns), size)


def _asked(model: nn.Module, target: Any, num_examples: int) -> tuple[nn.Module, list[Question]]:
    """Return the network itself and one question per example."""
    network, asked = network_of(model)[0], unwrapped(model)[0]
    if not isinstance(asked, QuestionModel):
        return network, as_questions(target, num_examples)
    if isinstance(target, Question) or (isinstance(target, list) and any(isinstance(t, Question) for t in target)):
        raise TargetError("this model answers questions already; give the target that ask() gave, or the plain model")
    return network, asked.questions_for(target, num_examples)


def _space(model: nn.Module, images: Tensor, tokens: int) -> FeatureSpace:
    space = token_space(model, images[:1], tokens)
    if space is None:
        raise ValueError(
            f"found no softmax attention over tokens that form a grid in {type(model).__name__}: its attention is over "
            f"{tokens} entries, and no layer gives so many tokens, with or without class tokens, in a grid like the "
            f"image of {images.shape[-2]} x {images.shape[-1]}"
        )
    return space
