"""Mask of the step's mask source, for terms that cannot do without one."""

from __future__ import annotations

from torch import Tensor

from xai_align.align.forward_passes.classifier_pass import ClassifierPass


def needed_mask(forward: ClassifierPass, term: str) -> Tensor:
    """Return the masks ``[N, 1, H, W]`` (NaN where unknown) that the term called ``term`` needs.

    Raises:
        ValueError: there is no mask source, or (checked on the CPU only, to avoid a device synchronisation) its masks
            are not in [0, 1].
    """
    if forward.mask is None:
        raise ValueError(
            f"the term '{term}' needs a mask source's mask, but there is no mask source; give the recipe one, e.g. "
            "mask_source=GivenMask(), or leave the term out"
        )
    mask = forward.mask
    if mask.device.type == "cpu" and ((mask < 0) | (mask > 1)).any():
        known = mask[~mask.isnan()]
        raise ValueError(
            f"the masks for the term '{term}' hold values between {known.min():.3g} and {known.max():.3g}; give 1 "
            "where the evidence is, 0 where it isn't, NaN where it is unknown"
        )
    return mask
