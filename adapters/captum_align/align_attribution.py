"""ALIGNAttribution: the mask of a trained masker as a Captum method."""

from __future__ import annotations

from captum.attr import Attribution
from captum.log import log_usage

from captum_align.without_futures import WithoutFutures
from captum_align.without_sum import WithoutSum
from xai_align.align.method import ALIGNMethod


class ALIGNAttribution(ALIGNMethod, WithoutFutures, WithoutSum, Attribution):
    """Mask of an image's evidence by a trained masker: one forward pass, no gradients.

    Arguments, options and errors are those of :class:`xai_align.align.ALIGNMethod`; this class adds Captum's
    interface.

    Source: from the published description of ALIGN, Hong et al. (arXiv 2511.06944).

    Example::

        align = ALIGNAttribution(Masker())  # in practice, the masker of a trained AlignTrainer
        masks = align.attribute(images).sum(1)  # [N, H, W], in [0, 1]
    """

    attribute = log_usage()(ALIGNMethod.attribute)

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name in tables."""
        return "ALIGN"
