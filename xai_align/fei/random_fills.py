"""Random fills for hidden pixels: another kind at every step, so that no map can rely on any of them.

A map that is optimised for one fill fits artefacts of that fill; for several
fills it fits the evidence in the image. All random numbers come from a generator
on the CPU and are the same for every image of a batch, so that an image does not
depend on the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from xai_align._tools.checks import check_choice
from xai_align._tools.drawn import integer_below, normal
from xai_align.fei.solid_colours import Normalization, references
from xai_align.perturbation.fills import GaussianBlur

#: Default kinds: two that insertion and deletion are measured with, and three others.
KINDS = ("blur", "zero", "noise", "colour", "texture")
#: Noise of solid fills, in standard deviations of the image. If all pixels are equal, max pooling selects one by
#: rounding errors, and so does the gradient.
GRAIN = 0.01


@dataclass(frozen=True)
class Fills:
    """Source of fills: ``draw()`` returns one, ``[N or 1, C or 1, H or 1, W or 1]``; ``note`` describes them."""

    draw: Callable[[], Tensor]
    note: str


def random_fills(
    inputs: Tensor,
    kinds: Sequence[str],
    generator: torch.Generator,
    *,
    normalization: Normalization | None = None,
) -> Fills:
    """Return fills for these images, each of a random kind.

    Args:
        inputs: images ``[N, C, H, W]``.
        kinds: ``"blur"``: the image under an 11 x 11 Gaussian of sigma 5. ``"zero"``: zeros, the mean colour of
            normalised images. ``"mean"``: each image's mean colour. ``"noise"``: normal noise with each image's
            mean and standard deviation. ``"colour"``: a solid colour, see
            :func:`~xai_align.fei.solid_colours.references`. ``"texture"``: see :func:`scrambled`.
        generator: on the CPU.
        normalization: ``(mean, std)`` of the images, for solid colours.

    Raises:
        ValueError: no kind, or an unknown one.
    """
    deviation, mean = torch.std_mean(inputs, dim=(2, 3), keepdim=True)
    blurred = GaussianBlur()(inputs)
    colours = references(inputs, normalization=normalization, seed=integer_below(2**31, generator))

    def noise() -> Tensor:
        return deviation * normal(inputs.shape[1:], generator).to(inputs)

    makers: dict[str, Callable[[], Tensor]] = {
        "blur": lambda: blurred,
        "zero": lambda: GRAIN * noise(),
        "mean": lambda: mean + GRAIN * noise(),
        "noise": lambda: mean + noise(),
        "colour": lambda: colours.draw(0) + GRAIN * noise(),
        "texture": lambda: scrambled(inputs, generator),
    }
    if not isinstance(kinds, Iterable):
        raise ValueError(f"fills are {kinds!r}; give one or more of {', '.join(makers)}")
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if not kinds:
        raise ValueError(f"no fill was given; give one or more of {', '.join(makers)}")
    for kind in kinds:
        check_choice("the fill", kind, makers)

    def draw() -> Tensor:
        return makers[kinds[integer_below(len(kinds), generator)]]()

    note = f"; {colours.note}" if "colour" in kinds else ""
    return Fills(draw, f"fills were drawn from {', '.join(kinds)} at every step{note}")


def scrambled(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image with its amplitude spectrum and random phases: its texture without the object.

    The phases are those of white noise, the same for all channels, so colours stay together.
    """
    noise = normal(inputs.shape[2:], generator).to(inputs)
    phase = torch.fft.rfft2(noise)
    phase = phase / phase.abs().clamp_min(torch.finfo(inputs.dtype).tiny)
    phase[..., 0, 0] = 1  # the mean colour stays
    return torch.fft.irfft2(torch.fft.rfft2(inputs) * phase, s=tuple(inputs.shape[2:]))


def fixed_fill(inputs: Tensor, baselines: Any, seed: int) -> Fills:
    """Return the caller's number, tensor or function as fill, see :func:`~xai_align.fei.solid_colours.references`."""
    given, calls = references(inputs, baselines, seed=seed), count()
    return Fills(lambda: given.draw(next(calls)), given.note)
