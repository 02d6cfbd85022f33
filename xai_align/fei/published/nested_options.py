"""Options of the nested solver that are rarely changed, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from xai_align.features.resolve_layer import Layers

Objective = Literal["preserve", "delete", "both"]
Schedule = Literal["constant", "linear"]
Order = Literal["sequential", "parallel"]


@dataclass(frozen=True, kw_only=True)
class NestedOptions:
    """Options of :func:`~xai_align.fei.published.nested.nested_masks`; each can also be given to it by keyword.

    Attributes:
        lr: Adam's learning rate at the first step.
        area_weight: ``beta``, on the sum over pixels and not on the mean, so its effect depends on the resolution.
        area_schedule: "constant", or "linear": ``beta_t = t * beta`` with ``t`` from 0 for each quantile.
        objective: "preserve" shows the marked pixels; "delete" hides them and lowers the answer,
            ``L = + f(Phi(1 - alpha; r))``; "both" adds the two, at twice the cost, and clips
            each in its own forward pass (the released code does not: :mod:`~xai_align.fei.published.nested`).
        clip_layers: the modules inside which gradients are clipped; None: all.
        order: "sequential" as published; "parallel" (ours): all quantiles in one batch with independent masks,
            made nested at the end by a running maximum. ``n_iter`` steps in all.
        mask_size: ours: rows and columns of cells (or one number for both) at which masks are optimised; they are
            then upsampled bilinearly, and ``P`` is the number of cells. A cell has the evidence of many pixels, so
            ``area_weight`` has to grow with their number. None: the image's size.
        fills: ours: kinds of :func:`~xai_align.fei.random_fills.random_fills`, which are the reference instead of
            solid colours; not used if ``baselines`` are given. None: solid colours.
        binarise_from: from this step of each quantile on, ``t * beta * sum_i alpha_i (1 - alpha_i)`` is added.

    Example::

        optimize_masks(model, images, solver="nested", n_iter=10, options=NestedOptions(area_weight=0.2))
    """

    lr: float = 0.1
    area_weight: float = 0.1
    area_schedule: Schedule = "constant"
    objective: Objective = "preserve"
    clip_layers: Layers | None = None
    order: Order = "sequential"
    mask_size: int | tuple[int, int] | None = None
    fills: Sequence[str] | None = None
    binarise_from: int | None = None
