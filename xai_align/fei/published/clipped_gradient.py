"""Average clipped gradient: slope of the answer at each pixel on the path from a solid colour to the image.

For composites ``Phi(alpha; r) = alpha * x + (1 - alpha) * r`` with a mask
``alpha`` of one channel, the slope of the answer at a pixel ``i`` is

    d answer / d alpha_i  =  sum_c g_ci (x_ci - r_ci)        g: the (clipped) gradient at the composite

and the map is its mean over a few points of the straight path, with a constant
``alpha``, and a few colours ``r``. Nothing is optimised: ten passes instead of
the five hundred of :func:`~xai_align.fei.published.nested.nested_masks`, whose steps follow
this gradient. The benchmarks measure how close the two are, which the paper does
not. Expect them to agree on regions but not on single pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_fractions, check_integer
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.resolve_layer import Layers
from xai_align.fei.composites import composite, composite_answers
from xai_align.fei.published.gradient_clipping import ClippingMode, clipped_copy
from xai_align.fei.solid_colours import Normalization, references
from xai_align.perturbation.ranking import rank, warn_of_ties
from xai_align.question import Question


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
        clip: rule of gradient clipping, see :func:`~xai_align.fei.published.gradient_clipping.clip_gradients`.
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
    with composite_answers(
        model,
        inputs,
        questions,
        additional_forward_args=additional_forward_args,
        intercept=partial(clipped_copy, mode=clip, layers=clip_layers),
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


def _check_finite(answer: Tensor, g: Tensor) -> None:
    fine = answer.isfinite().all(1) & g.flatten(1).isfinite().all(1)
    if not fine.all():
        wrong = (~fine).nonzero().flatten().tolist()
        raise ValueError(
            f"on the way from a colour to the image, the answers or gradients of example(s) {wrong} hold NaN or "
            "infinity; look for a square root or a logarithm at 0, or use a wider dtype"
        )
