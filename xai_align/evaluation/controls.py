"""Two controls that know nothing of the model: what a method has to beat.

They have Captum's call, so they run wherever a method does. A metric that doesn't tell a
method from ``random`` says nothing about it; ``centre_gaussian`` scores well wherever objects
lie in the middle of photographs.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from xai_align.hookspecs import AttributionSpec


class RandomAttribution:
    """Independent uniform numbers in [0, 1), one for each pixel.

    Each example has a field of its own, drawn from the seed and the example's content (its values as
    float32): the same at every call, on every device, whatever the batch.

    Args:
        model: not used; methods are built with a model.
        seed: of the numbers.
    """

    def __init__(self, model: Any = None, *, seed: int = 0) -> None:
        self.seed = seed

    def attribute(self, inputs: Any, target: Any = None, additional_forward_args: Any = None) -> Any:
        """Numbers in the shape of ``inputs`` (a tensor ``[N, ...]`` or a tuple of them); all channels get the same.

        Of ``[N, C, H, W]`` and of inputs with more axes, axis 1 holds channels; others have none.

        Raises:
            TypeError: inputs are no tensors.
        """
        return _for_each(inputs, self._field)

    def _field(self, position: int, x: Tensor) -> Tensor:
        return torch.stack([self._drawn(row, position) for row in x])

    def _drawn(self, row: Tensor, position: int) -> Tensor:
        shape = (1, *row.shape[1:]) if row.dim() >= 3 else tuple(row.shape)
        content = crc32(row.detach().float().cpu().numpy().tobytes())
        mixed = np.random.SeedSequence((self.seed, position, content)).generate_state(1)
        generator = torch.Generator().manual_seed(int(mixed[0]))
        return torch.rand(shape, generator=generator, dtype=torch.float64)


class CentreGaussianAttribution:
    """A round bump in the middle of every image: ``exp(-d^2 / (2 s^2))``, ``d`` the distance from the centre.

    Args:
        model: not used; methods are built with a model.
        sigma: ``s`` as a share of the shorter side.

    Raises:
        ValueError: sigma is not positive.
    """

    def __init__(self, model: Any = None, *, sigma: float = 0.25) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma is {sigma}; give a positive share of the shorter side")
        self.sigma = sigma

    def attribute(self, inputs: Any, target: Any = None, additional_forward_args: Any = None) -> Any:
        """The bump in the shape of ``inputs``, ``[N, C, H, W]`` or a tuple of such; all channels get the same.

        Raises:
            TypeError: inputs are no tensors.
            ValueError: inputs are no images.
        """
        return _for_each(inputs, self._bump)

    def _bump(self, position: int, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"a bump in the middle is for images [N, C, H, W], got {list(x.shape)}")
        height, width = x.shape[2:]
        down = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
        across = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
        squared = down[:, None] ** 2 + across[None] ** 2
        return torch.exp(-squared / (2 * (self.sigma * min(height, width)) ** 2))[None, None]


#: The controls by name.
CONTROLS: list[AttributionSpec] = [
    AttributionSpec(
        name="random",
        build=RandomAttribution,
        summary="control: uniform noise, its own for every image",
        control=True,
        by_default=True,
    ),
    AttributionSpec(
        name="centre_gaussian",
        build=CentreGaussianAttribution,
        summary="control: a bump in the middle of every image",
        control=True,
    ),
]


def _for_each(inputs: Any, made: Any) -> Any:
    """What ``made`` gives for each input, for every channel and example, in the inputs' dtype and form."""
    several = isinstance(inputs, tuple)
    maps = []
    for position, x in enumerate(inputs if several else (inputs,)):
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs are of type {type(x).__name__}; give a tensor [N, ...] or a tuple of tensors")
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        maps.append(made(position, x).to(x.device, dtype).expand(x.shape).clone())
    return tuple(maps) if several else maps[0]
