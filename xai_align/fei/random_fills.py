"""What stands where a mask hides the image: a fill of another kind at every step, so that no map can rely on any.

A map that is optimised against one fill finds what this fill makes of the
network. Against several it finds what the network sees in the image.
Everything random comes from a generator on the CPU and is the same for every
image of a batch, so that none depends on its batch mates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from xai_align.fei.solid_colours import Normalization, references
from xai_align.perturbation.fills import GaussianBlur

#: The kinds by default: two that insertion and deletion are measured with, and three that belong to neither.
KINDS = ("blur", "zero", "noise", "colour", "texture")
#: Solid fills carry so much noise, in standard deviations of the image. Where all pixels are the same, max pooling
#: has no winner but by rounding, and the gradient would go wherever rounding sends it.
GRAIN = 0.01


@dataclass(frozen=True)
class Fills:
    """Where fills come from: ``draw()`` gives one, ``[N or 1, C or 1, H or 1, W or 1]``; ``note`` says it in words."""

    draw: Callable[[], Tensor]
    note: str


def random_fills(
    inputs: Tensor,
    kinds: Sequence[str],
    generator: torch.Generator,
    *,
    normalization: Normalization | None = None,
) -> Fills:
    """Fills for these images, each of a kind drawn at random.

    Args:
        inputs: images ``[N, C, H, W]``.
        kinds: ``"blur"``: the image under an 11 x 11 Gaussian of sigma 5. ``"zero"``: zeros, the mean colour of
            normalised images. ``"mean"``: each image's mean colour. ``"noise"``: normal noise with each image's
            mean and standard deviation. ``"colour"``: a solid colour, see
            :func:`~xai_align.fei.solid_colours.references`. ``"texture"``: see :func:`scrambled`.
        generator: on the CPU.
        normalization: ``(mean, std)`` of the images, for solid colours.

    Raises:
        ValueError: no kind, or one that is not known.
    """
    deviation, mean = torch.std_mean(inputs, dim=(2, 3), keepdim=True)
    blurred = GaussianBlur()(inputs)
    colours = references(inputs, normalization=normalization, seed=int(torch.randint(2**31, (1,), generator=generator)))

    def noise() -> Tensor:
        return deviation * torch.randn(inputs.shape[1:], generator=generator).to(inputs)

    makers: dict[str, Callable[[], Tensor]] = {
        "blur": lambda: blurred,
        "zero": lambda: GRAIN * noise(),
        "mean": lambda: mean + GRAIN * noise(),
        "noise": lambda: mean + noise(),
        "colour": lambda: colours.draw(0) + GRAIN * noise(),
        "texture": lambda: scrambled(inputs, generator),
    }
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    unknown = [kind for kind in kinds if kind not in makers]
    if unknown or not kinds:
        found = f"the fill '{unknown[0]}' is not known" if unknown else "no fill was given"
        raise ValueError(f"{found}; choose from {', '.join(makers)}")

    def draw() -> Tensor:
        return makers[kinds[int(torch.randint(len(kinds), (1,), generator=generator))]]()

    told = f"; {colours.note}" if "colour" in kinds else ""
    return Fills(draw, f"fills were drawn from {', '.join(kinds)} at every step{told}")


def scrambled(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Each image with the strength of all its spatial frequencies and random phases: its texture, and no object.

    The phases are those of white noise, the same for all channels, so colours stay together.
    """
    noise = torch.randn(inputs.shape[2:], generator=generator).to(inputs)
    phase = torch.fft.rfft2(noise)
    phase = phase / phase.abs().clamp_min(torch.finfo(inputs.dtype).tiny)
    phase[..., 0, 0] = 1  # the mean colour stays
    return torch.fft.irfft2(torch.fft.rfft2(inputs) * phase, s=tuple(inputs.shape[2:]))


def fixed_fill(inputs: Tensor, baselines: Any, seed: int) -> Fills:
    """The caller's fill: a number, a tensor or a function, see :func:`~xai_align.fei.solid_colours.references`."""
    given, calls = references(inputs, baselines, seed=seed), count()
    return Fills(lambda: given.draw(next(calls)), given.note)
