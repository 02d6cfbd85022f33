"""Axes of a layer's output that run along axes of an input, for signals ``[N, C, L]`` and volumes ``[N, C, D, H, W]``.

The order of the axes differs between networks: a convolution returns ``[N, K, l]``, a transformer ``[N, l, K]``, and an
input may be ``[N, C, L]`` or ``[N, L, C]``. So they are found by a pass: the positions at both ends of an axis of the
output depend on different parts of the input, and their gradients lie apart along the input's axis that it runs along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.drawn import noise_like
from xai_align._tools.replica import Replica
from xai_align._tools.sum_keeping import resize_keeping_sum
from xai_align.features.routes import route_through
from xai_align.hookspecs import FeatureSpace

#: Smallest distance between the gradients' centres, in lengths of the input's axis.
APART = 0.1

#: Axes of an output, and the input's axes that they run along.
Pairs = dict[int, int]


def paired_axes(model: nn.Module, space: FeatureSpace, x: Tensor, extra: Sequence[Any] = ()) -> list[Pairs]:
    """Return the pairs of axes of each tensor of a feature space and of the input.

    Args:
        model: the network; a copy in eval mode is run on fixed noise.
        space: the feature space.
        x: input ``[1, ...]``, used only for shape, dtype and device.
        extra: further arguments of the model.

    Raises:
        ValueError: no axis of the output runs along one of the input.
    """
    seen: list[Tensor] = []

    def put(number: int, z: Tensor) -> Tensor:
        seen.append(z)
        return z

    copy = Replica(model, evaluate=True, inplace=False)
    noise = noise_like(x)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = noise.requires_grad_()
        route_through(copy.module, [copy.rebind(space)], (leaf,), tuple(extra)).run(put, [leaf.clone()])
        found = [_pairs(z, leaf) for z in seen]
    for z, pairs in zip(seen, found, strict=True):
        if not pairs:
            raise ValueError(
                f"no axis of the output {list(z.shape)} of '{space.layer}' runs along one of the input "
                f'{list(x.shape)}, so its contributions have no place there; read at layer="input", or take them as '
                "they are (LayerPiNetAttribution, Readout.contributions)"
            )
    return found


def spread_over(contributions: Tensor, pairs: Pairs, shape: Sequence[int], prefix: int = 0) -> Tensor:
    """Return contributions in the shape of an input, with the same sum for each example.

    Along paired axes a cell is spread over the positions it covers; other axes of the contributions are summed, and the
    result is divided equally along the other axes of the input.

    Args:
        contributions: ``[N, ...]``.
        pairs: axes of the contributions, and the input's axes that they run along.
        shape: the shape of the input.
        prefix: leading positions of the first paired axis that have no position in the input.
    """
    first = min(pairs)
    cells = contributions.narrow(first, prefix, contributions.shape[first] - prefix)
    others = [axis for axis in range(1, cells.dim()) if axis not in pairs]
    cells = cells.sum(others) if others else cells
    kept = sorted(pairs)
    order = sorted(range(len(kept)), key=lambda place: pairs[kept[place]])
    cells = cells.permute(0, *(1 + place for place in order))
    along = [pairs[kept[place]] for place in order]
    for place, axis in enumerate(along, start=1):
        moved = cells.movedim(place, -1).unsqueeze(-2)  # [..., 1, cells]
        cells = resize_keeping_sum(moved, (1, shape[axis])).squeeze(-2).movedim(-1, place)
    free = [axis for axis in range(1, len(shape)) if axis not in along]
    for axis in free:
        cells = cells.unsqueeze(axis)
    share = 1
    for axis in free:
        share *= shape[axis]
    return (cells / share).expand(shape).contiguous()


def _pairs(z: Tensor, x: Tensor) -> Pairs:
    distances = {
        (axis, along): distance
        for axis in range(1, z.dim())
        if z.shape[axis] > 1
        for along, distance in _distances(z, axis, x).items()
    }
    pairs: Pairs = {}
    for (axis, along), distance in sorted(distances.items(), key=lambda item: -item[1]):
        if distance >= APART and axis not in pairs and along not in pairs.values():
            pairs[axis] = along
    return pairs


def _distances(z: Tensor, axis: int, x: Tensor) -> dict[int, float]:
    """Return, for each axis of the input, how far apart the gradients of both ends of an axis of ``z`` lie on it."""
    ends = [_gradient(z.select(axis, end), x) for end in (0, z.shape[axis] - 1)]
    first = 2 if x.dim() == 5 else 1  # [N, C, D, H, W]
    found = {}
    for along in range(first, x.dim()):
        if x.shape[along] > 1:
            centres = [_centre(gradient, along) for gradient in ends]
            found[along] = abs(centres[1] - centres[0]) / (x.shape[along] - 1)
    return found


def _gradient(values: Tensor, x: Tensor) -> Tensor:
    weights = noise_like(values, 1)
    (gradient,) = torch.autograd.grad((values * weights).sum(), x, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


def _centre(gradient: Tensor, along: int) -> float:
    energy = gradient.cpu().double().square().movedim(along, 0).flatten(1).sum(1)
    places = torch.arange(len(energy), dtype=torch.float64, device="cpu")
    total = float(energy.sum())
    return float((energy * places).sum()) / total if total > 0 else (len(energy) - 1) / 2
