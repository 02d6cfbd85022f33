"""Experimental: the same thing on other backgrounds must get the same label.

    L_bg = CE(f(x M + b (1 - M)), y)

``M`` is the guide's mask, ``b`` a magnified piece of another image. Comparing a CAM with a mask asks where the
last layer's evidence lies, and a cell of the last layer may have looked far around itself. This term asks it of
the input: what is outside the mask can't carry the answer, because it is exchanged. With a mask that is wrong
the thing itself is taken away, and accuracy falls; so accuracy and explanation want the same mask.

Ours, not of the published description of ALIGN. Training on exchanged backgrounds is older: Xiao et al. 2020
("Noise or Signal", arXiv 2006.09994); training on what a learned mask keeps is in Zolna et al. 2020 (CASM).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align.align.saliency import at_least_float32
from xai_align.align.terms.term_options import check_number
from xai_align.align.views.classifier_view import ClassifierView
from xai_align.align.views.side_pass import statistics_kept


@dataclass(kw_only=True)
class OtherBackgrounds:
    """Cross entropy of the labels where what is outside the guide's mask is a piece of another image.

    A piece has the image's proportions, lies anywhere, and is magnified bilinearly to the image's size: backgrounds
    so come at all scales, and hardly ever with a whole thing in them. Places whose mask is not known stay as they are.

    Attributes:
        weight: of the term.
        smallest: the least side of a piece, as a share of the image's; scales are uniform in their logarithm.
        largest: the greatest; at 1 a piece may be the whole image, thing included.

    Raises:
        ValueError: options out of range.
    """

    name: ClassVar[str] = "backgrounds"
    needs_guide: ClassVar[bool] = True

    weight: float = 1.0
    smallest: float = 0.06
    largest: float = 0.4

    def __post_init__(self) -> None:
        check_number("the weight of other backgrounds", self.weight)
        if not 0 < self.smallest <= self.largest <= 1:
            raise ValueError(
                f"pieces have sides between {self.smallest} and {self.largest} of the image's; "
                "give shares above 0 and at most 1, the smallest first"
            )

    def __call__(self, view: ClassifierView) -> Tensor:
        """``[N]``, float32, with one more forward pass.

        Raises:
            ValueError: nobody guides.
        """
        if view.mask is None:
            raise ValueError(
                "other backgrounds need a guide's mask, but there is no guide; "
                "give the recipe one, e.g. guide=LearnedMask()"
            )
        images = self.exchanged(view, view.mask)
        with statistics_kept(view.classifier):
            logits = at_least_float32(view.classifier(images))
        return F.cross_entropy(logits, view.batch.labels, reduction="none")

    @torch.no_grad()
    def exchanged(self, view: ClassifierView, mask: Tensor) -> Tensor:
        """``[N, C, H, W]``: the batch's images, of other images where ``mask [N, 1, H, W]`` is 0."""
        order = torch.randperm(len(view.everyone.labels), generator=view.draws.generator("whose background"))
        others = view.everyone.images[order[view.mine].to(view.everyone.images.device)]
        u = view.draws.uniform("which piece", 3)
        pieces = magnified(others, u[:, 0], u[:, 1:], smallest=self.smallest, largest=self.largest)
        kept = mask.nan_to_num(nan=1.0).to(pieces)
        return view.batch.images * kept + pieces * (1 - kept)


def magnified(images: Tensor, scale: Tensor, place: Tensor, *, smallest: float, largest: float) -> Tensor:
    """A piece of each image, as large as the image.

    Args:
        images: ``[N, C, H, W]``.
        scale: ``[N]`` in [0, 1]: from the smallest piece to the largest.
        place: ``[N, 2]`` in [0, 1]: from left to right and from top to bottom.
        smallest: least side, as a share of the image's.
        largest: greatest.
    """
    side = smallest * torch.exp(scale * math.log(largest / smallest))
    middle = (2 * place - 1) * (1 - side[:, None])  # in [-1, 1], so that the piece lies inside
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = middle
    grid = F.affine_grid(theta, list(images.shape), align_corners=False).to(images.dtype)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
