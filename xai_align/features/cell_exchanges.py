"""Exchanges of evidence between the cells of one grid layer and the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

import torch
from torch import Tensor

from xai_align._tools.drawn import noise_like
from xai_align.features.grid_layer import GridLayer
from xai_align.hookspecs import FeatureSpace


class Step(Enum):
    """The relation of a cell to those of the layer before."""

    #: It depends on the same cell alone.
    ALONE = 0
    #: It depends on other cells too.
    EXCHANGE = 1
    #: It depends on other cells and not on the same one: cells have changed places.
    MOVE = 2


def with_depths(logits: Tensor, image: Tensor, found: Sequence[tuple[GridLayer, Tensor]]) -> list[GridLayer]:
    """Return the layers with their depths, whether they are of pixels, and whether their cells reach the output.

    Layers after one that moves cells to other positions are left out, up to the next grid.

    Args:
        logits: the output, whose graph is alive.
        image: ``[1, C, H, W]``, the leaf of that graph.
        found: the layers with their outputs, in the order in which they end.
    """
    gradients = _gradients(logits, [z for _, z in found])
    layers: list[GridLayer] = []
    before, seen = GridLayer(FeatureSpace(layer="input", layout="NCHW"), image.shape[-2], image.shape[-1]), image
    depth, moved, of_pixels = 0, False, True
    for number, (layer, z) in enumerate(found):
        step, behind_pixels = _step(before, seen, layer, z), of_pixels
        of_pixels = of_pixels and step is Step.ALONE
        if not behind_pixels:
            depth += step is not Step.ALONE
            moved = step is Step.MOVE or (moved and layer.grid == before.grid)
        before, seen = layer, z
        gradient = gradients[number]
        reaches = gradient is not None and bool(layer.cells(gradient).any())
        if not moved:
            layers.append(replace(layer, depth=depth, reaches_output=reaches, of_pixels=of_pixels))
    return layers


def _gradients(logits: Tensor, outputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not outputs:
        return []
    score = logits.float().square().sum()  # squared, so that classes cannot cancel out
    return torch.autograd.grad(score, outputs, retain_graph=True, allow_unused=True)


def _step(before: GridLayer, z: Tensor, after: GridLayer, later: Tensor) -> Step:
    if before.grid != after.grid:
        return Step.EXCHANGE
    cell = before.rows * before.columns // 2
    seen = after.cells(later)[0, :, cell]
    weights = noise_like(seen, 1)
    (gradient,) = torch.autograd.grad((seen * weights).sum(), z, retain_graph=True, materialize_grads=True)
    depends = before.cells(gradient)[0].abs().sum(0) > 0
    itself = bool(depends[cell])
    depends[cell] = False
    if not bool(depends.any()):
        return Step.ALONE
    return Step.EXCHANGE if itself else Step.MOVE
