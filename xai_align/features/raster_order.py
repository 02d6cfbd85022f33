"""Test that tokens lie row by row over the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.replica import Replica
from xai_align.features.grid_layer import GridLayer
from xai_align.features.spatial import contribution_map

#: Rows and columns, as shares, where the image is changed.
CHANGED = ((0.28, 0.66), (0.78, 0.3))


def in_raster_order(model: nn.Module, layers: Sequence[GridLayer], noise: Tensor) -> list[GridLayer]:
    """Return the layers without those whose tokens don't lie row by row, as a change of the image in one cell shows.

    The first layer of each grid is looked at, where a cell depends little on others.
    """
    first = {layer.grid: layer for layer in reversed(layers) if layer.has_tokens}
    if not first:
        return list(layers)
    copy = Replica(model, evaluate=True).module
    outputs: dict[str, Tensor] = {}

    def remember(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs[name] = floating_parts(output)[0].clone()

        return hook

    for layer in first.values():
        copy.get_submodule(layer.name).register_forward_hook(remember(layer.name))
    wrong: set[tuple[int, int]] = set()
    for place in CHANGED:
        for layer in first.values():
            changed, cell = _with_other_cell(noise, place, layer.grid)
            with torch.no_grad():
                copy(noise.clone())
                before = outputs[layer.name]
                copy(changed)
            most = _most_changed(outputs[layer.name] - before, layer, noise)
            if max(abs(one - other) for one, other in zip(cell, most, strict=True)) > max(1, layer.rows // 7):
                wrong.add(layer.grid)
    return [layer for layer in layers if layer.grid not in wrong or not layer.has_tokens]


def _with_other_cell(
    noise: Tensor, place: tuple[float, float], grid: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """Return an image that differs from ``noise`` in one cell of the grid, and the cell's row and column."""
    sizes = (noise.shape[-2] / grid[0], noise.shape[-1] / grid[1])
    row, column = (int(share * count) for share, count in zip(place, grid, strict=True))
    rows, columns = (
        slice(round(index * size), round((index + 1) * size)) for index, size in zip((row, column), sizes, strict=True)
    )
    changed = noise.clone()
    changed[..., rows, columns] *= -2
    return changed, (row, column)


def _most_changed(change: Tensor, layer: GridLayer, noise: Tensor) -> tuple[int, int]:
    size = (noise.shape[-2], noise.shape[-1])
    cells = contribution_map(change.square(), replace(layer.space, grid=lambda size, count: layer.grid), size)
    row, column = divmod(int(cells[0].argmax()), cells.shape[-1])
    return row, column


def floating_parts(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of a module's output: a tensor, or a list, tuple or dictionary of some."""
    parts = list(output.values()) if isinstance(output, dict) else output
    parts = parts if isinstance(parts, list | tuple) else [parts]
    return [one for one in parts if isinstance(one, Tensor) and one.is_floating_point()]
