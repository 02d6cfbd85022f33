"""Experimental term: the same object on other backgrounds must get the same label.

    L_bg = CE(f(x M + b (1 - M)), y)

``M`` is the mask source's mask, ``b`` a magnified crop of an image of the batch. A CAM locates evidence in the last
layer, whose cells have large receptive fields. This term works on the input: pixels outside the mask can't determine
the prediction, because they are replaced. With a wrong mask the object itself is removed, and accuracy falls; so
accuracy and explanation favour the same mask.

Ours, not part of the published description of ALIGN. Earlier work: training on replaced backgrounds in Xiao et al.
2020 ("Noise or Signal", arXiv 2006.09994), and on the part that a learned mask keeps in Zolna et al. 2020 (CASM).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align._tools.checks import check_number
from xai_align._tools.drawn import permutation
from xai_align.align.forward_passes.classifier_pass import ClassifierPass
from xai_align.align.forward_passes.side_pass import batch_statistics_preserved
from xai_align.align.saliency import at_least_float32
from xai_align.align.terms.needed_mask import needed_mask


@dataclass(kw_only=True)
class OtherBackgrounds:
    """Term that is the cross entropy of the labels with the background replaced by a crop of an image of the batch.

    A crop has the image's aspect ratio and a random position, and is magnified bilinearly to the image's size: so
    backgrounds come at all scales, and rarely contain a whole object. The images are paired by a random permutation of
    the batch, so one image in a batch, on average, gets a crop of its own. Pixels with an unknown mask are not changed.

    Attributes:
        weight: of the term.
        smallest: smallest side of a crop, as a share of the image's; scales are log-uniform.
        largest: largest side of a crop; at 1 it may be the whole image, including the object.

    Raises:
        ValueError: options out of range.
    """

    name: ClassVar[str] = "backgrounds"
    needs_mask_source: ClassVar[bool] = True

    weight: float = 1.0
    smallest: float = 0.06
    largest: float = 0.4

    def __post_init__(self) -> None:
        check_number("the weight of other backgrounds", self.weight)
        if not 0 < self.smallest <= self.largest <= 1:
            raise ValueError(
                f"crops have sides between {self.smallest} and {self.largest} of the image's; "
                "give shares above 0 and at most 1, the smallest first"
            )

    def __call__(self, forward: ClassifierPass) -> Tensor:
        """Return the cross entropy of each image, ``[N]``, float32, with one more forward pass.

        Raises:
            ValueError: there is no mask source.
        """
        images = self.exchanged(forward, needed_mask(forward, self.name))
        with batch_statistics_preserved(forward.classifier):
            logits = at_least_float32(forward.classifier(images))
        return F.cross_entropy(logits, forward.batch.labels, reduction="none")

    @torch.no_grad()
    def exchanged(self, forward: ClassifierPass, mask: Tensor) -> Tensor:
        """Return the images ``[N, C, H, W]``, replaced by crops of the batch where ``mask [N, 1, H, W]`` is 0."""
        order = permutation(len(forward.global_batch.labels), forward.draws.generator("whose background"))
        others = forward.global_batch.images[order[forward.local].to(forward.global_batch.images.device)]
        u = forward.draws.uniform("which piece", 3)
        crops = magnified(others, u[:, 0], u[:, 1:], smallest=self.smallest, largest=self.largest)
        kept = mask.nan_to_num(nan=1.0).to(crops)
        return forward.batch.images * kept + crops * (1 - kept)


def magnified(images: Tensor, scale: Tensor, place: Tensor, *, smallest: float, largest: float) -> Tensor:
    """Return a crop of each image, magnified to the image's size.

    Args:
        images: ``[N, C, H, W]``.
        scale: ``[N]`` in [0, 1]: from the smallest crop to the largest.
        place: ``[N, 2]`` in [0, 1]: from left to right and from top to bottom.
        smallest: smallest side, as a share of the image's.
        largest: largest side, likewise.
    """
    side = smallest * torch.exp(scale * math.log(largest / smallest))
    middle = (2 * place - 1) * (1 - side[:, None])  # in [-1, 1], so that the crop lies inside
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = middle
    grid = F.affine_grid(theta, list(images.shape), align_corners=False).to(images.dtype)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
