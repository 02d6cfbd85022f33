"""Insertion and deletion curves by which several benchmarks judge maps.

Every curve is of the probability of the photograph's class, and its area over [0, 1] is computed by the trapezoidal
rule. More is better for insertion, less for deletion; their difference is one number for each fill.
Networks judge in float32: bfloat16 is twice as fast on some CPUs and ten times slower on others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.shared.photographs import Judge
from xai_align.evaluation.faithfulness import area
from xai_align.perturbation import PerturbationSpec, curve_values, perturbation_curves
from xai_align.perturbation.curve import Curve
from xai_align.perturbation.spec import Order, steps

#: Steps of curves with fills that methods do not use, and on other networks.
OTHER_STEPS = 10
#: Number of perturbed inputs in a batch.
BATCH = 16
#: Precision of the judging networks; None: float32. Areas in bfloat16 are within 0.01 of it, 0.001 off in the mean
#: (24 measured).
PRECISION: torch.dtype | None = None
#: Networks that judge the maps of a network, besides itself.
OTHERS: dict[str, tuple[str, ...]] = {
    "lite0": ("lite1", "squeezenet"),
    "squeezenet": ("lite0", "lite1"),
    "resnet20": (),
}
#: Distance to the other photograph in the list, cyclically.
PLACES_ON = 17
#: "lerf" removes the least relevant first: insertion, read backwards.
GAMES: dict[str, Order] = {"insertion": "lerf", "deletion": "morf"}


def own_games(count: int) -> dict[str, PerturbationSpec]:
    """Return RISE's pair, insertion from blur and deletion to zeros, in this number of steps."""
    return {
        "insertion blur": PerturbationSpec("blur", "lerf", steps(count)),
        "deletion zero": PerturbationSpec("zero", "morf", steps(count)),
    }


def both_games(
    name: str, fill: Any, count: int = OTHER_STEPS, grid: tuple[int, int] | None = None
) -> dict[str, PerturbationSpec]:
    """Return insertion and deletion with the same fill."""
    return {f"{game} {name}": PerturbationSpec(fill, order, steps(count), grid) for game, order in GAMES.items()}


def on_another_network(network: Judge, pixels: Tensor, labels: list[int], maps: Tensor) -> list[dict[str, float]]:
    """Return the areas of :func:`own_games` for the same pixels and maps at this network's size."""
    x = network.view(pixels)
    resized = interpolate(maps[:, None], x.shape[-2:], mode="bilinear")[:, 0]
    series = own_games(OTHER_STEPS)
    curves = perturbation_curves(
        network.model, x, resized, list(series.values()), internal_batch_size=BATCH, autocast=PRECISION
    )
    return areas_of(dict(zip(series, curves, strict=True)), labels)


def areas_of(curves: dict[str, Curve], labels: list[int]) -> list[dict[str, float]]:
    """Return the area under each curve for each map."""
    found = {name: area(curve.fractions, curve_values(curve, labels)[1]) for name, curve in curves.items()}
    return [{name: float(areas[n]) for name, areas in found.items()} for n in range(len(labels))]
