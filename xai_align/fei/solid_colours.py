"""References for hidden pixels: by default a new random solid colour at every step.

A solid colour has no edges and no texture, so it is not evidence for a particular
class; a new one at every step keeps a mask from exploiting any one of them. All
random numbers come from a separate generator on the CPU: the same seed gives the
same colours on every device, and all images of a batch share them, so that an
image does not depend on the rest of the batch or on its position in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from xai_align._tools.checks import check_finite, check_seed
from xai_align._tools.counted import counted
from xai_align._tools.drawn import uniform

#: Mean and standard deviation of each channel, or one number for all.
Normalization: TypeAlias = tuple[Sequence[float] | Tensor | float, Sequence[float] | Tensor | float]


@dataclass(frozen=True)
class References:
    """Reference ``r`` of composites ``alpha * x + (1 - alpha) * r``.

    Attributes:
        draw: ``draw(step)`` returns a tensor ``[1 or N, C or 1, H or 1, W or 1]``, broadcastable to the images.
        varies: whether the reference differs between steps.
        note: description of its source.
    """

    draw: Callable[[int], Tensor]
    varies: bool
    note: str


def references(
    inputs: Tensor, baselines: Any = None, *, normalization: Normalization | None = None, seed: int = 0
) -> References:
    """Return the references for these images.

    Args:
        inputs: ``[N, C, H, W]``.
        baselines: None for random solid colours; a number; a tensor ``[N, C, H, W]`` (axes may be 1); or a
            function ``(inputs, step, generator) -> Tensor`` that is called at every step.
        normalization: ``(mean, std)`` that the images were normalised with; colours are then drawn from the full
            colour range. None: from each image's own range.
        seed: seed of the generator (CPU).

    Raises:
        TypeError: the baselines are none of these.
        ValueError: shapes don't match, or values are not finite.
    """
    generator = torch.Generator().manual_seed(check_seed(seed))
    if baselines is None:
        if normalization is None:
            return References(_from_own_range(inputs, generator), True, _OWN_RANGE.format(seed))
        mean, std = _per_channel(normalization, inputs)
        return References(lambda step: solid_colour(mean, std, generator), True, _ALL_COLOURS.format(seed))
    if isinstance(baselines, int | float) and not isinstance(baselines, bool):
        baselines = inputs.new_tensor(float(baselines))
    if isinstance(baselines, Tensor):
        fixed = _fitting(baselines.detach(), inputs)
        check_finite("the baselines", fixed)
        return References(lambda step: fixed, False, "the reference was given, and is the same at every step")
    if not callable(baselines):
        raise TypeError(
            f"baselines of type {type(baselines).__name__} are not understood; give None for random solid colours, "
            "a number, a tensor, or a function (inputs, step, generator) -> Tensor"
        )
    return References(
        # of a copy: a function may work in place
        lambda step: _from_function(baselines(inputs.clone(), step, generator), inputs),
        True,
        f"references came from the function that was given; its generator started from seed {seed}",
    )


def solid_colour(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one of the 256^C colours uniformly, normalised.

    Args:
        mean: ``[1, C, 1, 1]``, of pixels in [0, 1].
        std: likewise.
        generator: on the CPU.

    Returns:
        ``[1, C, 1, 1]``, of the dtype and on the device of ``mean``.
    """
    levels = torch.randint(256, (mean.shape[1],), generator=generator, device=generator.device)
    return (levels.to(mean).reshape(mean.shape) / 255 - mean) / std


def _from_own_range(inputs: Tensor, generator: torch.Generator) -> Callable[[int], Tensor]:
    """Return a source of colours ``[N, C, 1, 1]``, each channel uniform between the image's minimum and maximum."""
    low, high = inputs.amin((2, 3), keepdim=True), inputs.amax((2, 3), keepdim=True)

    def draw(step: int) -> Tensor:
        u = uniform(inputs.shape[1:2], generator).to(inputs)
        return low + u[None, :, None, None] * (high - low)

    return draw


def _per_channel(normalization: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation as ``[1, C, 1, 1]``."""
    mean, std = mean_and_std(normalization, inputs.shape[1])
    return mean.to(inputs).reshape(1, -1, 1, 1), std.to(inputs).reshape(1, -1, 1, 1)


def mean_and_std(normalization: Any, channels: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, ``[C]`` in float64.

    Raises:
        ValueError: they are not finite numbers for each channel, or a standard deviation is not above 0.
    """
    if not isinstance(normalization, tuple | list) or len(normalization) != 2:
        raise ValueError(f"normalization is {normalization!r}; give (mean, std), each with one number for each channel")
    both = []
    for name, given in zip(("mean", "std"), normalization, strict=True):
        try:
            values = torch.as_tensor(given, dtype=torch.float64, device="cpu").detach().flatten()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"the {name} of the normalization must be numbers, got {given!r}") from None
        if len(values) not in (1, channels):
            raise ValueError(
                f"the {name} of the normalization has {counted(len(values), 'value')} for "
                f"{counted(channels, 'channel')}; give {channels}"
            )
        if not values.isfinite().all() or (name == "std" and not (values > 0).all()):
            wanted = "finite and above 0" if name == "std" else "finite"
            raise ValueError(f"the {name} of the normalization must be {wanted}, got {values.tolist()}")
        both.append(values.expand(channels))
    return both[0], both[1]


def _from_function(returned: Any, inputs: Tensor) -> Tensor:
    """Return what the caller's function returned as a reference."""
    if not isinstance(returned, Tensor):
        raise ValueError(f"the baselines' function returned {type(returned).__name__}; it must give a tensor")
    fitting = _fitting(returned.detach(), inputs)
    check_finite("what the baselines' function returned", fitting)
    return fitting


def _fitting(baselines: Tensor, inputs: Tensor) -> Tensor:
    """Return a reference with four axes, broadcastable to the images."""
    r = baselines.reshape(1, 1, 1, 1) if baselines.dim() == 0 else baselines
    if r.dim() != 4 or any(a not in (1, b) for a, b in zip(r.shape, inputs.shape, strict=True)):
        raise ValueError(
            f"the baselines have shape {list(baselines.shape)}; "
            f"give a number or {list(inputs.shape)}, where any axis may be 1"
        )
    return r.to(inputs)


_ALL_COLOURS = "at every step the reference was a random solid colour from the full range of an image, seed {}"
_OWN_RANGE = (
    "at every step the reference was a random solid colour from each image's own range, as no normalization was "
    "given, seed {}"
)
