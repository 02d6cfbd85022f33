"""Options of the curve solver that are rarely changed, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from xai_align.features.resolve_layer import Layer, Layers
from xai_align.fei.random_fills import KINDS
from xai_align.fei.removal import Removal
from xai_align.fei.scales import SCALES
from xai_align.fei.starting_map import Start


@dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """Options of :func:`~xai_align.fei.curve.curve_masks`; each can also be given to it by keyword.

    Attributes:
        restarts: number of searches, each with its own random numbers, whose maps are averaged.
        mask_size: cells along the shorter side of the image. None: the patches of a network that keeps one grid of
            tokens; for others 28, or one per pixel if there are fewer.
        start: "readout", "default readout", "flat", or maps ``[N, h, w]``.
        start_layer: layer of the readout, as in :func:`~xai_align.read_out`. None: with "readout" the last feature
            map, or the default layers of a network that keeps one grid of tokens; with "default readout" these of any
            network.
        lr: size of the first step, in standard deviations of the map; it falls to a twentieth along a cosine.
        temperatures: ``tau`` at the first and the last step, in standard deviations of the map.
        scales: pairs of a width in cells and a weight, see :mod:`~xai_align.fei.scales`.
        fills: kinds of :func:`~xai_align.fei.random_fills.random_fills`.
        removal: what hides the rest of the image: "fill"; "drop", by which patches are left out of the tokens of a
            transformer; or "either", at random. Deviations of hidden layers then count all tokens, hidden ones too,
            which still look at those shown.
        shift: maximum shift of masks in pixels; None: a 56th of the shorter side, none where cells are
            patches.
        mirror: "random": half of the composites are flipped left to right; none if gradients are changed. On
            photographs this costs more than it gives: each step carries less information, so more of them are needed.
        deviation_weight: ``w``; 0 turns the deviation of hidden layers off.
        deviation_layers: the layers whose deviation counts; None: the stages that a plugin names, else the
            last module at each resolution (see :mod:`~xai_align.features.stage_layers`).
        stable_at: an image is done when the rank correlation of its map with the one five steps before is at least
            this; its map is then kept, and the search ends when all are done. None: all steps are made.

    Example::

        optimize_masks(model, images, n_iter=10, options=CurveOptions(restarts=3))
    """

    restarts: int = 1
    mask_size: int | None = None
    start: Start = "readout"
    start_layer: Layer = None
    lr: float = 0.1
    temperatures: tuple[float, float] = (0.5, 0.15)
    scales: Sequence[tuple[float, float]] = SCALES
    fills: Sequence[str] = KINDS
    removal: Removal = "fill"
    shift: int | None = None
    mirror: Literal["never", "random"] = "never"
    deviation_weight: float = 1.0
    deviation_layers: Layers | None = None
    stable_at: float | None = None
