"""CARE's term: little evidence outside the given region, and at least some inside it.

    L = sum_outside Phi - min( sum_inside Phi, threshold )

``Phi`` is the label's map at the image's resolution, and the sums are over pixels. Source: Zhuang et al., MIDL 2019
(Class Attention to Regions of Lesion), and the authors' code. Its map is the evidence before the ReLU, scaled from its
minimum to its maximum, its threshold one half, and its weight beside the mean cross entropy 0.01 for each image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from xai_align._tools.checks import check_number
from xai_align._tools.full_precision import full_precision
from xai_align.align.alignment_loss import at_one_resolution
from xai_align.align.forward_passes.classifier_pass import ClassifierPass
from xai_align.align.saliency import at_least_float32
from xai_align.align.terms.needed_mask import needed_mask


@dataclass(kw_only=True)
class EvidenceSums:
    """Term that is the evidence outside the mask source's mask, less that inside it up to a threshold.

    The map is the trainer's: give it ``normalise="signed"`` for the published scale. Sums grow with the number of
    pixels, so the weight has to be tuned for each image size. Unknown pixels count neither inside nor outside.

    Attributes:
        weight: of the term.
        threshold: evidence inside, in pixels of the value 1, beyond which more brings nothing.

    Raises:
        ValueError: options out of range.
    """

    name: ClassVar[str] = "evidence_sums"
    needs_mask_source: ClassVar[bool] = True

    weight: float = 0.01
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_number("the weight of the sums of evidence", self.weight)
        check_number("threshold", self.threshold)

    def __call__(self, forward: ClassifierPass) -> Tensor:
        """Return the loss of each image, ``[N]``; negative if there is evidence inside and none outside.

        Raises:
            ValueError: there is no mask source.
        """
        mask = needed_mask(forward, self.name)
        with full_precision(forward.saliency):
            phi, m, known = at_one_resolution(at_least_float32(forward.saliency), mask, "cam_up")
            inside = (phi * m * known).sum((1, 2, 3))
            outside = (phi * (1 - m) * known).sum((1, 2, 3))
        return outside - inside.clamp(max=self.threshold)
