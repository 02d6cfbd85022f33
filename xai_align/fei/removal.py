"""Ways to hide parts of an image: by a fill, or by leaving patches out of a transformer's tokens."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from xai_align._tools.drawn import uniform
from xai_align.fei.composites import composite
from xai_align.fei.random_fills import Fills
from xai_align.perturbation.token_dropping import with_visibility

#: "fill": pixels are filled. "drop": patches are left out, see :mod:`xai_align.perturbation.token_dropping`. "either":
#: one of the two for each composite, at random.
Removal: TypeAlias = Literal["fill", "drop", "either"]
REMOVALS = ("fill", "drop", "either")


def with_hidden(x: Tensor, shown: Tensor, fills: Fills, removal: Removal, generator: torch.Generator) -> Tensor:
    """Return images of which only a part is shown.

    Args:
        x: images ``[N, C, H, W]``.
        shown: masks ``[N, M, H, W]``, 1 where the image is shown.
        fills: what is seen elsewhere, unless patches are left out.
        removal: how the rest is hidden.
        generator: draws the way for "either".

    Returns:
        ``[N, M, C, H, W]`` for "fill", else ``[N, M, C + 1, H, W]`` with the visibility as the last channel.
    """
    if removal == "fill":
        return composite(x, shown, fills.draw())
    if removal == "drop" or float(uniform((), generator)) < 0.5:
        return with_visibility(x, shown)
    filled = composite(x, shown, fills.draw())
    return torch.cat([filled, torch.ones_like(filled[:, :, :1])], 2)
