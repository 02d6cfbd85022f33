"""Two control attributions that do not depend on the model: baselines for every method.

They have Captum's interface, so they run wherever a method does. A metric on which a method
scores like ``random`` is not informative about it; ``centre_gaussian`` scores well where objects
are centred in the images.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from xai_align._tools.checks import check_number
from xai_align.hookspecs import AttributionSpec


class RandomAttribution:
    """Control that attributes independent uniform numbers in [0, 1), one for each pixel.

    Each example has its own noise, drawn from the seed and the example's content (its values as
    float32): the same at every call, on every device, in every batch.

    Args:
        model: not used; methods are built with a model.
        seed: seed of the noise.
    """

    def __init__(self, model: Any = None, *, seed: int = 0) -> None:
        self.seed = seed

    def attribute(self, inputs: Any, target: Any = None, additional_forward_args: Any = None) -> Any:
        """Return noise like ``inputs`` (a tensor ``[N, ...]`` or a tuple of them), the same for all channels.

        For inputs ``[N, C, H, W]`` or with more axes, axis 1 holds the channels; others have none.

        Raises:
            TypeError: inputs are not tensors.
        """
        return _for_each(inputs, self._field)

    def _field(self, position: int, x: Tensor) -> Tensor:
        return torch.stack([self._drawn(row, position) for row in x])

    def _drawn(self, row: Tensor, position: int) -> Tensor:
        shape = (1, *row.shape[1:]) if row.dim() >= 3 else tuple(row.shape)
        content = crc32(row.detach().float().cpu().numpy().tobytes())
        mixed = np.random.SeedSequence((self.seed, position, content)).generate_state(1)
        generator = torch.Generator().manual_seed(int(mixed[0]))
        return torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")


class CentreGaussianAttribution:
    """Control that attributes a centred Gaussian, ``exp(-d^2 / (2 s^2))`` with ``d`` the distance from the centre.

    Args:
        model: not used; methods are built with a model.
        sigma: ``s`` as a share of the shorter side.

    Raises:
        ValueError: sigma is not positive.
    """

    def __init__(self, model: Any = None, *, sigma: float = 0.25) -> None:
        self.sigma = check_number("sigma", sigma, above=0)

    def attribute(self, inputs: Any, target: Any = None, additional_forward_args: Any = None) -> Any:
        """Return the Gaussian like ``inputs``, ``[N, C, H, W]`` or a tuple of them, the same for all channels.

        Raises:
            TypeError: inputs are not tensors.
            ValueError: inputs are not images.
        """
        return _for_each(inputs, self._bump)

    def _bump(self, position: int, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"a centred Gaussian needs images [N, C, H, W], got inputs of shape {list(x.shape)}")
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
        summary="control: uniform noise, different for every image",
        note="random is a control: noise that is independent of the model and the question.",
        control=True,
        by_default=True,
    ),
    AttributionSpec(
        name="centre_gaussian",
        build=CentreGaussianAttribution,
        summary="control: a Gaussian in the centre of every image",
        note="centre_gaussian is a control: it is independent of the model and the question.",
        control=True,
    ),
]


def _for_each(inputs: Any, made: Any) -> Any:
    """Return the maps that ``made`` gives for each input, with its shape and dtype, in the form of ``inputs``."""
    several = isinstance(inputs, tuple)
    maps = []
    for position, x in enumerate(inputs if several else (inputs,)):
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs are of type {type(x).__name__}; give a tensor [N, ...] or a tuple of tensors")
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        maps.append(made(position, x).to(x.device, dtype).expand(x.shape).clone())
    return tuple(maps) if several else maps[0]
