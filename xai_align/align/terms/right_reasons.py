"""Right for the right reasons: a penalty on input gradients outside the mask.

    sum_d (A_d  d/dx_d sum_k log p_k)^2        A = 1 - mask

Source: Ross, Hughes & Doshi-Velez, IJCAI 2017, equation 1, and the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align._tools.checks import check_choice, check_number
from xai_align._tools.full_precision import full_precision
from xai_align.align.forward_passes.classifier_pass import ClassifierPass
from xai_align.align.saliency import at_least_float32
from xai_align.align.terms.needed_mask import needed_mask

#: Differentiated score: the sum of all log probabilities, as published, or the label's only.
Score = Literal["all", "label"]


@dataclass(kw_only=True)
class RightReasons:
    """Term of squared input gradients outside the mask source's mask, summed over channels and pixels.

    Put it first in a recipe: all other terms then share the forward pass of its gradients. Pixels with an unknown mask
    are not penalised. Gradients are in the units of the classifier's input, so the weight that balances the two losses
    has to be tuned for each data set: the authors' code has 1000 on half of this sum by default, and searched between
    1e-4 and 1e8.

    Attributes:
        weight: of the term.
        score: the score that is differentiated.

    Raises:
        ValueError: options out of range.
    """

    name: ClassVar[str] = "right_reasons"
    needs_mask_source: ClassVar[bool] = True
    differentiates_twice: ClassVar[bool] = True

    weight: float = 1.0
    score: Score = "all"

    def __post_init__(self) -> None:
        check_number("the weight of right reasons", self.weight)
        check_choice("score", self.score, ("all", "label"))

    def __call__(self, forward: ClassifierPass) -> Tensor:
        """Return the penalty of each image, ``[N]``, differentiable with respect to the weights.

        Raises:
            ValueError: there is no mask source.
        """
        mask = needed_mask(forward, self.name)
        pixels, seen = forward.from_pixels
        with full_precision(pixels):
            log_p = F.log_softmax(at_least_float32(seen.logits), -1)
            asked = log_p if self.score == "all" else log_p.gather(1, forward.batch.labels[:, None])
            (gradient,) = torch.autograd.grad(asked.sum(), pixels, create_graph=True)
            irrelevant = (1 - mask).nan_to_num(nan=0.0)
            return (irrelevant * at_least_float32(gradient)).square().sum((1, 2, 3))
