"""Terms of the masker's loss: small callables from a forward pass to one value for each image.

    L_dist + lambda1 ||M||_1 + lambda2 L_smooth        ALIGN, from the published description

The 1-norm is a mean here, so that lambda1 is independent of the image size. Both extremes are degenerate: without
sparsity a mask of ones is nearly optimal, and above a lambda1 of about 3.6 one of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xai_align._tools.checks import check_choice, check_number
from xai_align.align.forward_passes.masker_pass import MaskerPass
from xai_align.align.masker_loss import distinction, smoothness_of, sparsity_of
from xai_align.align.terms.term_options import AVERAGES, Average


@dataclass(kw_only=True)
class MaskerTerm:
    """Base class of the masker's terms: a subclass has a ``name`` and gives ``values(forward)``.

    The weight may change during training.

    Attributes:
        weight: of the term.
        confidence: only images that are classified correctly, with at least this probability, train the masker: other
            predictions are not evidence for the label (as in CASM, Zolna et al. 2020). Costs one more forward pass.
            None: all images do.
        average: over images, or over classes.

    Raises:
        ValueError: options out of range.

    Example::

        >>> from dataclasses import dataclass
        >>> from typing import ClassVar
        >>> from xai_align.align import MaskerTerm
        >>> @dataclass(kw_only=True)
        ... class Binary(MaskerTerm):
        ...     name: ClassVar[str] = "binary"
        ...     def values(self, forward):
        ...         return (forward.masks * (1 - forward.masks)).mean((1, 2, 3))
        >>> Binary(weight=0.5).weight
        0.5
    """

    name: ClassVar[str] = "masker"

    weight: float = 1.0
    confidence: float | None = None
    average: Average = "image"

    def __post_init__(self) -> None:
        check_number(f"the weight of {self.name}", self.weight)
        check_choice("average", self.average, AVERAGES)
        if self.confidence is not None:
            check_number("confidence", self.confidence, most=1.0)

    def values(self, forward: MaskerPass) -> Tensor:
        """Return the value of each image before it is weighted, ``[N]``."""
        raise NotImplementedError(f"{type(self).__name__} has no values(forward); write it in the subclass, [N]")

    def __call__(self, forward: MaskerPass) -> Tensor:
        """Return the value of each image, ``[N]``, float32; zero for images below the confidence."""
        values = self.values(forward)
        if self.confidence is not None:
            values = values * forward.trusted(self.confidence)
        return values * forward.per_class_weights if self.average == "class" else values


@dataclass(kw_only=True)
class Distinction(MaskerTerm):
    """Term ``L_dist = (p(x M) - p(x (1 - M)) - 1)^2``: the kept part suffices for the label, the dropped part doesn't.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from xai_align.align import Distinction, Masker, MaskerPass, TrainingBatch
        >>> classifier = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()
        >>> batch = TrainingBatch(images=torch.randn(2, 3, 8, 8), labels=torch.tensor([0, 2]))
        >>> forward = MaskerPass(batch, classifier=classifier, masker=Masker(), generator=torch.Generator())
        >>> Distinction()(forward).shape
        torch.Size([2])
    """

    name: ClassVar[str] = "distinction"

    def values(self, forward: MaskerPass) -> Tensor:
        """Return ``L_dist``, ``[N]``, between 0 and 4."""
        return distinction(forward.p_keep, forward.p_drop)


@dataclass(kw_only=True)
class Sparsity(MaskerTerm):
    """Term ``||M||_1``, as a mean over the pixels."""

    name: ClassVar[str] = "sparsity"

    weight: float = 2.0

    def values(self, forward: MaskerPass) -> Tensor:
        """Return the mean of each mask, ``[N]``."""
        return sparsity_of(forward.masks)


@dataclass(kw_only=True)
class Smoothness(MaskerTerm):
    """Term ``L_smooth``: mean absolute difference of neighbouring pixels.

    Example::

        >>> from xai_align.align import Smoothness, recipe
        >>> recipe("align", smoothness=0.2).masker_terms[2] == Smoothness(weight=0.2)
        True
    """

    name: ClassVar[str] = "smoothness"

    weight: float = 0.1

    def values(self, forward: MaskerPass) -> Tensor:
        """Return the total variation of each mask, ``[N]``."""
        return smoothness_of(forward.masks)


@dataclass(kw_only=True)
class AreaHinge(MaskerTerm):
    """Term ``relu(mean M - limit) + relu(least - mean M)``: bounds the area of masks.

    Attributes:
        limit: the largest mean without a penalty.
        least: the smallest mean without a penalty.

    Raises:
        ValueError: options out of range.
    """

    name: ClassVar[str] = "area"

    weight: float = 4.0
    limit: float = 0.35
    least: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("limit", self.limit, most=1.0)
        check_number("least", self.least, most=self.limit)

    def values(self, forward: MaskerPass) -> Tensor:
        """Return the penalty of each mask, ``[N]``."""
        mean = sparsity_of(forward.masks)
        return torch.relu(mean - self.limit) + torch.relu(self.least - mean)
