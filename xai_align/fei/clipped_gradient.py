"""Average clipped gradient: slope of the answer at each pixel on the path from a solid colour to the image.

For composites ``Phi(alpha; r) = alpha * x + (1 - alpha) * r`` with a mask
``alpha`` of one channel, the slope of the answer at a pixel ``i`` is

    d answer / d alpha_i  =  sum_c g_ci (x_ci - r_ci)        g: the (clipped) gradient at the composite

and the map is its mean over a few points of the straight path, with a constant
``alpha``, and a few colours ``r``. Nothing is optimised: ten passes instead of
the five hundred of :func:`~xai_align.fei.nested.nested_masks`, whose steps follow
this gradient. The benchmarks measure how close the two are, which the paper does
not. Expect them to agree on regions but not on single pixels.

:func:`clipped_answers` is shared with the solvers: it prepares the network and
computes answers for composites.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_fractions, check_integer
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.resolve_layer import Layers
from xai_align.fei.gradient_clipping import ClippingMode, clip_gradients
from xai_align.fei.solid_colours import Normalization, references
from xai_align.perturbation.ranking import rank, warn_of_ties
from xai_align.pinet.input_checks import check_inputs, check_logits, check_model, forward_arguments
from xai_align.question import Question, answers, as_questions


@restores_thread_state
def clipped_gradient(
    model: nn.Module,
    inputs: Tensor,
    questions: Sequence[Question],
    *,
    points: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    colours: int = 2,
    clip: ClippingMode = "ibm",
    clip_layers: Layers | None = None,
    normalization: Normalization | None = None,
    baselines: Any = None,
    seed: int = 0,
    additional_forward_args: Any = None,
) -> Tensor:
    """Compute the mean clipped gradient with respect to a one-channel mask; see the module for the formula.

    Args:
        model: gives logits ``[N, ...]``; in eval mode.
        inputs: images ``[N, C, H, W]``.
        questions: one for each image.
        points: the values of ``alpha`` along the path, in [0, 1].
        colours: number of random references; with fixed baselines there is one.
        clip: rule of gradient clipping, see :func:`~xai_align.fei.gradient_clipping.clip_gradients`.
        clip_layers: names of the modules inside which they are clipped; None: all.
        normalization: ``(mean, std)`` of the images, for random colours; see
            :func:`~xai_align.fei.solid_colours.references`.
        baselines: values of hidden pixels; None: random solid colours.
        seed: seed of the random colours.
        additional_forward_args: further arguments of the model; tensors of the batch's length are repeated for
            the composites.

    Returns:
        ``[N, H, W]``, float32 (float64 for float64 inputs), in units of the answer per pixel.

    Raises:
        TypeError, ValueError: the model, the inputs or an option is invalid.

    Example::

        questions = [Question.why(281), Question.why_not(1, 3)]  # one for each image
        slopes = clipped_gradient(model, images, questions)  # [N, H, W]
    """
    alphas = check_fractions("points", points)
    check_integer("colours", colours)
    with clipped_answers(
        model,
        inputs,
        questions,
        clip=clip,
        clip_layers=clip_layers,
        additional_forward_args=additional_forward_args,
    ) as asked:
        x = asked.inputs
        r = references(x, baselines, normalization=normalization, seed=seed)
        draws = colours if r.varies else 1
        total = x.new_zeros(len(x), *x.shape[2:])
        for step in range(draws):
            alpha = x.new_tensor(alphas)[None, :, None, None].expand(len(x), -1, *x.shape[2:])
            alpha = alpha.contiguous().requires_grad_()
            answer = asked(composite(x, alpha, r.draw(step)))
            # clipping assumes a loss that is minimised: the negative answer
            (g,) = torch.autograd.grad(-answer.sum(), alpha)
            _check_finite(answer, g)
            total -= g.mean(1)
    result = total / draws
    warn_of_ties(rank(result))
    return result


def composite(x: Tensor, alpha: Tensor, r: Tensor) -> Tensor:
    """Return ``Phi(alpha; r) = alpha * x + (1 - alpha) * r``, exactly ``x`` where alpha is 1 and ``r`` where it is 0.

    Args:
        x: images ``[N, C, H, W]``.
        alpha: ``M`` masks for each, ``[N, M, H, W]``.
        r: the reference, ``[1 or N, C or 1, H or 1, W or 1]``.

    Returns:
        ``[N, M, C, H, W]``.
    """
    return torch.lerp(r[:, None], x[:, None], alpha[:, :, None])


@dataclass(frozen=True)
class ClippedAnswers:
    """Network that computes answers for composites of some images.

    Attributes:
        inputs: the images ``[N, C, H, W]``, detached, in the dtype of masks: float32, or float64 for float64.
        clipped: the activations whose gradients are clipped, e.g. "features.1 (relu)".
        model: the copy of the network that runs; it may have hooks.
    """

    inputs: Tensor
    clipped: tuple[str, ...]
    model: nn.Module
    questions: tuple[Question, ...]
    extra: tuple[Any, ...]
    dtype: torch.dtype

    def __call__(self, composites: Tensor) -> Tensor:
        """Return answers ``[N, M]`` for composites ``[N, M, C, H, W]``, by each image's own question."""
        n, m = composites.shape[:2]
        # image-major, as the clipping expects: the copies of an image are adjacent
        logits = self.model(_laid_out(composites.flatten(0, 1).to(self.dtype)), *self._for_copies(m))
        logits = logits.to(self.inputs.dtype).unflatten(0, (n, m))
        # answers(questions, logits), all copies of an image at once
        each = [torch.vmap(question.answer)(row) for question, row in zip(self.questions, logits, strict=True)]
        found = torch.stack(each)
        if composites.requires_grad and not found.requires_grad:
            raise ValueError(
                "the answers have no gradient: the model detaches its inputs, or works under no_grad; "
                "masks are found by gradients"
            )
        return found

    def _for_copies(self, copies: int) -> tuple[Any, ...]:
        return tuple(
            argument.repeat_interleave(copies, dim=0)
            if isinstance(argument, Tensor) and argument.dim() and len(argument) == len(self.inputs)
            else argument
            for argument in self.extra
        )


@contextmanager
def clipped_answers(
    model: nn.Module,
    inputs: Tensor,
    questions: Sequence[Question],
    *,
    clip: ClippingMode,
    clip_layers: Layers | None,
    additional_forward_args: Any,
) -> Iterator[ClippedAnswers]:
    """Yield a copy of the network whose gradients are clipped, with grad mode enabled. The network is not changed.

    Raises:
        TypeError, ValueError: the model or the inputs are invalid, or the logits of the images are not finite.
    """
    check_model(model)
    check_images(model, inputs)
    asked = as_questions(list(questions), len(inputs))
    extra = forward_arguments(additional_forward_args)
    with torch.inference_mode(False), torch.enable_grad():
        x = _laid_out(inputs.detach().clone())  # the copy is a normal tensor, also of one from inference mode
        with torch.no_grad():  # fail early if something is wrong with the network or a question
            answers(asked, check_logits(model(x, *extra)))
        with clip_gradients(
            model, x, mode=clip, layers=clip_layers, additional_forward_args=additional_forward_args
        ) as clipping:
            names = tuple(f"{call.layer or 'the model itself'} ({call.kind})" for call in clipping.calls)
            wide = torch.float64 if x.dtype == torch.float64 else torch.float32
            yield ClippedAnswers(x.to(wide), names, clipping.model, tuple(asked), extra, x.dtype)


def check_images(model: nn.Module, inputs: Tensor) -> None:
    """Raise if ``inputs`` are not a batch of images.

    Raises:
        TypeError: not a floating tensor.
        ValueError: not ``[N, C, H, W]``, not finite, or of another dtype or device than the model.
    """
    check_inputs(model, [inputs])
    if inputs.dim() != 4 or not inputs.numel():
        raise ValueError(f"the inputs have shape {list(inputs.shape)}; masks need images [N, C, H, W]")


def _check_finite(answer: Tensor, g: Tensor) -> None:
    fine = answer.isfinite().all(1) & g.flatten(1).isfinite().all(1)
    if not fine.all():
        wrong = (~fine).nonzero().flatten().tolist()
        raise ValueError(
            f"on the way from a colour to the image, the answers or gradients of example(s) {wrong} hold NaN or "
            "infinity; look for a square root or a logarithm at 0, or use a wider dtype"
        )


def _laid_out(x: Tensor) -> Tensor:
    """Return a copy in the channels-last layout on a CPU, where convolutions are faster with it.

    It is always a copy: ``contiguous`` would leave a batch of one with strides that convolutions take for the
    other layout. The same image would then be rounded in two ways, and where a mask hides everything, rounding
    decides which of many equal pixels a max pooling selects.
    """
    return x.clone(memory_format=torch.channels_last) if x.device.type == "cpu" else x.contiguous()
