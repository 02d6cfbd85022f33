"""Ensemble quantile optimisation: nested masks, one for each share of the image, averaged into a map.

FEI (arXiv 2509.04588). Only its abstract and the authors' released code were
available, so this follows the code; additions (the "parallel" order,
``mask_size``, ``fills``, fixed references) are marked as ours.

For quantiles ``p_1 < ... < p_K``, an image ``x`` of ``P`` pixels, and a new
reference ``r_t`` at every step:

    alpha_0 = 0,   alpha_k = alpha_{k-1} + delta_k,   0 <= delta_k <= 1 - alpha_{k-1}
    Phi(alpha; r) = alpha * x + (1 - alpha) * r
    L = - f(Phi(alpha_k; r_t))  +  beta_t * | sum_i alpha_k,i - floor(p_k P) |
    A = (1/K) sum_k alpha_k

``f`` is the answer to a question: for a single class its logit, so that a class
of probability zero is explained like any other. Each ``delta_k`` starts at 0
with its own Adam, whose rate falls to 0 along a cosine.

With objective "both" each forward pass has clips of its own here. In the
released code the second forward pass overwrites the clips of the first before
the one backward pass, so under ivm, avm, vm and fgvis its results differ from
these by up to 9e-2 (in float64, on the same tensors). With one backward pass for
each forward pass they are equal to 2e-16; under ibm they are equal as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_choice, check_integer, check_number, check_seed
from xai_align._tools.options import with_changes
from xai_align._tools.thread_state import restores_thread_state
from xai_align.fei.composites import CompositeAnswers, composite, composite_answers
from xai_align.fei.optimised import OptimisedMasks, check_quantiles, optimised_masks
from xai_align.fei.published.gradient_clipping import ClippingMode, clipped_copy
from xai_align.fei.published.nested_options import NestedOptions
from xai_align.fei.random_fills import random_fills
from xai_align.fei.solid_colours import Normalization, References, references
from xai_align.perturbation.spec import removed_count
from xai_align.question import Question

#: The composites of an objective: +1 shows the marked pixels and raises the answer, -1 hides them and lowers it.
_SIGNS: dict[str, tuple[int, ...]] = {"preserve": (1,), "delete": (-1,), "both": (1, -1)}
#: ``beta_t``, from the weight and the step within a quantile.
_SCHEDULES: dict[str, Callable[[float, int], float]] = {
    "constant": lambda weight, t: weight,
    "linear": lambda weight, t: weight * t,
}


@restores_thread_state
def nested_masks(
    model: nn.Module,
    inputs: Tensor,
    questions: Sequence[Question],
    *,
    quantiles: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    n_iter: int = 100,
    clip: ClippingMode = "ibm",
    normalization: Normalization | None = None,
    baselines: Any = None,
    seed: int = 0,
    options: NestedOptions | None = None,
    additional_forward_args: Any = None,
    progress: Callable[[int], None] | None = None,
    warn: bool = True,
    **changed: Any,
) -> OptimisedMasks:
    """Optimise masks for images as FEI's released code does (with the defaults of its ``explain``).

    A constant image is allowed: with ``normalization`` random colours differ from it. Otherwise the
    reference has its colour and nothing can be ranked; a warning reports the ties.

    Args:
        model: gives logits ``[N, ...]``; in eval mode. A copy of it is run.
        inputs: images ``[N, C, H, W]``.
        questions: one for each image.
        quantiles: the shares ``p_k``, strictly increasing in (0, 1).
        n_iter: steps for each quantile.
        clip: rule of gradient clipping, see :func:`~xai_align.fei.published.gradient_clipping.clip_gradients`.
        normalization: ``(mean, std)`` of the images, for random colours.
        baselines: the reference: None for a random solid colour, or one of ``fills``, at every step; a number, a
            tensor, or a function ``(inputs, step, generator) -> Tensor``; see
            :func:`~xai_align.fei.solid_colours.references`.
        seed: seed of the references.
        additional_forward_args: further arguments of the model; tensors of the batch's length are repeated for
            the composites.
        progress: called with 1 after each step.
        warn: whether to issue warnings about the result.
        options: further options; None: the defaults of :class:`~xai_align.fei.NestedOptions`.
        **changed: single fields of the options, e.g. ``area_weight=0.2``.

    Returns:
        The masks. ``losses[:, k * n_iter + t]`` is ``L`` of quantile ``k`` before step ``t``, with the area term.

    Raises:
        TypeError, ValueError: the model, the inputs or an option is invalid.

    Warns:
        AreaMissed: a mask's area differs from its quantile by more than 0.05.
        TieWarning: many pixels of the map have equal values.
        UnchangedAnswer: no composite changed the answer about an image.
    """
    chosen = with_changes(options, NestedOptions, changed, "nested_masks")
    p = check_quantiles(quantiles)
    check_seed(seed)
    check_choice("order", chosen.order, _ORDERS)
    signs = _SIGNS[check_choice("objective", chosen.objective, _SIGNS)]
    beta = check_number("area_weight", chosen.area_weight)
    beta_at = _SCHEDULES[check_choice("area_schedule", chosen.area_schedule, _SCHEDULES)]
    _check_binarise(chosen.binarise_from, check_integer("n_iter", n_iter))
    check_number("lr", chosen.lr, above=0)
    with composite_answers(
        model,
        inputs,
        questions,
        additional_forward_args=additional_forward_args,
        intercept=partial(clipped_copy, mode=clip, layers=chosen.clip_layers),
    ) as asked:
        x = asked.inputs
        r = (
            references(x, baselines, normalization=normalization, seed=seed)
            if chosen.fills is None or baselines is not None
            else _any_fill(x, chosen.fills, normalization, seed)
        )
        cells = _cells(chosen.mask_size, (x.shape[2], x.shape[3]))
        optimisation = _Optimisation(
            asked, r, signs, beta, beta_at, n_iter, chosen.lr, chosen.binarise_from, progress or (lambda done: None)
        )
        targets = x.new_tensor([removed_count(share, cells[0] * cells[1]) for share in p])  # floor(p_k P)
        alphas, losses = _ORDERS[chosen.order](optimisation, x.new_zeros(len(x), 1, *cells), targets)
        masks = _on_image(alphas, x)
    return optimised_masks(
        masks.mean(1),  # A = (1/K) sum_k alpha_k
        masks,
        losses,
        quantiles=p,
        clipped=asked.clipped,
        passes=len(p) * n_iter * len(signs),
        answer_ranges=asked.span.width,
        notes=[r.note],
        warn=warn,
    )


def nested_steps(options: Mapping[str, Any]) -> int:
    """Return the number of steps with these options: ``n_iter``, once for each mask or for all in parallel."""
    masks = len(check_quantiles(options["quantiles"])) if options["order"] == "sequential" else 1
    return masks * check_integer("n_iter", options["n_iter"])


@dataclass(frozen=True)
class _Optimisation:
    """Joint optimisation of ``M`` masks of each image."""

    asked: CompositeAnswers
    references: References
    signs: tuple[int, ...]
    beta: float
    beta_at: Callable[[float, int], float]
    n_iter: int
    lr: float
    binarise_from: int | None
    progress: Callable[[int], None]

    def run(self, start: Tensor, targets: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Return masks ``[N, M, h, w]`` from ``start`` upwards and their losses ``[N, M, n_iter]``.

        Args:
            start: ``[N, 1, h, w]``, ``alpha_{k-1}``.
            targets: ``[M]``, the number of cells that each mask should mark.
            first: number of the first step, for references.
        """
        room = 1 - start
        delta = start.new_zeros(len(start), len(targets), *start.shape[2:]).requires_grad_()
        adam = torch.optim.Adam([delta], lr=self.lr)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=self.n_iter)
        losses = []
        for t in range(self.n_iter):
            loss = self._loss(start + delta, targets, t, self.references.draw(first + t))
            # summed over images, so that each is independent of the rest of the batch
            (delta.grad,) = torch.autograd.grad(loss.sum(), delta)
            adam.step()
            cosine.step()
            with torch.no_grad():  # 0 <= delta_k <= 1 - alpha_{k-1}
                delta.copy_(torch.minimum(delta.clamp(min=0), room))
            losses.append(loss.detach())
            self.progress(1)
        return (start + delta).detach(), torch.stack(losses, 2)

    def _loss(self, alpha: Tensor, targets: Tensor, t: int, r: Tensor) -> Tensor:
        """Return ``L``, ``[N, M]``."""
        area = (alpha.flatten(2).sum(2) - targets).abs()
        loss = self.beta_at(self.beta, t) * area - self._evidence(_on_image(alpha, self.asked.inputs), r)
        if self.binarise_from is not None and t >= self.binarise_from:
            loss = loss + t * self.beta * (alpha * (1 - alpha)).flatten(2).sum(2)
        return loss

    def _evidence(self, alpha: Tensor, r: Tensor) -> Tensor:
        """Return ``f(Phi(alpha; r))``, or ``-f(Phi(1 - alpha; r))``, or their sum, ``[N, M]``."""
        copies = torch.stack([alpha if sign > 0 else 1 - alpha for sign in self.signs], 2)
        f = self.asked(composite(self.asked.inputs, copies.flatten(1, 2), r)).unflatten(1, (-1, len(self.signs)))
        return (f * f.new_tensor(self.signs)).sum(2)


def _one_after_another(optimisation: _Optimisation, nothing: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Optimise one mask after another, as published: each starts from the previous one, and can only grow."""
    alphas, losses, alpha = [], [], nothing
    for k, target in enumerate(targets):
        alpha, loss = optimisation.run(alpha, target[None], k * optimisation.n_iter)
        alphas.append(alpha)
        losses.append(loss)
    return torch.cat(alphas, 1), torch.cat(losses, 2).flatten(1)


def _side_by_side(optimisation: _Optimisation, nothing: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Optimise independent masks in one batch (ours), then make them nested by a running maximum."""
    alphas, losses = optimisation.run(nothing, targets, 0)
    return alphas.cummax(1).values, losses.flatten(1)


_ORDERS = {"sequential": _one_after_another, "parallel": _side_by_side}


def _on_image(alpha: Tensor, x: Tensor) -> Tensor:
    """Upsample cells ``[N, M, h, w]`` to pixels ``[N, M, H, W]``."""
    if alpha.shape[2:] == x.shape[2:]:
        return alpha
    return nn.functional.interpolate(alpha, x.shape[2:], mode="bilinear")


def _any_fill(x: Tensor, kinds: Sequence[str], normalization: Normalization | None, seed: int) -> References:
    """Return references of random kinds (ours): masks of solid colours alone do worse under other fills."""
    fills = random_fills(x, kinds, torch.Generator().manual_seed(seed), normalization=normalization)
    return References(lambda step: fills.draw(), True, fills.note)


def _cells(mask_size: int | tuple[int, int] | None, image: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of a mask."""
    if mask_size is None:
        return image
    sides = tuple(mask_size) if isinstance(mask_size, Iterable) else (mask_size, mask_size)
    whole = len(sides) == 2 and all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides)
    if not whole or not all(1 <= side <= most for side, most in zip(sides, image, strict=True)):
        raise ValueError(
            f"mask_size is {mask_size!r}, the images have {image[0]} x {image[1]} pixels; "
            "give rows and columns from 1 up to the image's own"
        )
    return int(sides[0]), int(sides[1])


def _check_binarise(binarise_from: int | None, n_iter: int) -> None:
    if binarise_from is not None and check_integer("binarise_from", binarise_from, least=0) >= n_iter:
        raise ValueError(f"binarise_from is {binarise_from}, but a quantile has only steps 0 … {n_iter - 1}")
