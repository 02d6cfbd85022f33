"""Mask of the step's mask source, for terms that cannot do without one."""

from __future__ import annotations

from torch import Tensor

from xai_align.align.forward_passes.classifier_pass import ClassifierPass


def needed_mask(forward: ClassifierPass, term: str) -> Tensor:
    """Return the masks ``[N, 1, H, W]`` (NaN where unknown) that the term called ``term`` needs.

    Raises:
        ValueError: there is no mask source.
    """
    if forward.mask is None:
        raise ValueError(
            f"the term '{term}' needs a mask source's mask, but there is no mask source; give the recipe one, e.g. "
            "mask_source=GivenMask(), or leave the term out"
        )
    return forward.mask
