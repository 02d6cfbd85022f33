"""GRADIA's term: the mean absolute difference between the label's map and a given mask.

    L = mean over cells of  | Phi - M |

Source: Gao et al. 2022 (GRADIA), in the form of RES's code (Gao et al., KDD 2022): Grad-CAM of the label with constant
channel weights, scaled from its minimum to its maximum, at its own resolution; images without a mask don't count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from xai_align._tools.checks import check_number
from xai_align._tools.full_precision import full_precision
from xai_align.align.alignment_loss import at_one_resolution, weighted_mean
from xai_align.align.forward_passes.classifier_pass import ClassifierPass
from xai_align.align.saliency import at_least_float32
from xai_align.align.terms.needed_mask import needed_mask


@dataclass(kw_only=True)
class MapDistance:
    """Term that is the mean absolute difference between the label's map and the mask source's mask.

    The map is the trainer's: give it ``normalise="minmax"`` for the published scale. Cells with an unknown mask don't
    count, nor do images without any known one.

    Attributes:
        weight: of the term; 1 in the authors' code.

    Raises:
        ValueError: the weight is negative.
    """

    name: ClassVar[str] = "map_distance"
    needs_mask_source: ClassVar[bool] = True

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_number("the weight of the map's distance", self.weight)

    def __call__(self, forward: ClassifierPass) -> Tensor:
        """Return the distance of each image, ``[N]``.

        Raises:
            ValueError: there is no mask source.
        """
        mask = needed_mask(forward, self.name)
        with full_precision(forward.saliency):
            phi, m, known = at_one_resolution(at_least_float32(forward.saliency), mask, "mask_down")
            return weighted_mean((phi - m).abs(), known)
