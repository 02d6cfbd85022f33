"""FEIAttribution: optimised masks as a Captum method."""

from __future__ import annotations

from captum.attr import Attribution
from captum.log import log_usage

from captum_align.without_futures import WithoutFutures
from captum_align.without_sum import WithoutSum
from xai_align.fei.method import FEIMethod


class FEIAttribution(FEIMethod, WithoutFutures, WithoutSum, Attribution):
    """Ranking of the pixels that support the answer, by masks optimised to preserve it and to remove it.

    Arguments, options and errors are those of :class:`xai_align.fei.FEIMethod`; this class adds Captum's interface.

    Source: FEI, Zhang & McMillan (arXiv 2509.04588).

    Example::

        fei = FEIAttribution(model, normalization=(mean, std))
        attributions = fei.attribute(images, target=281)
    """

    attribute = log_usage()(FEIMethod.attribute)

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name in tables."""
        return "FEI"
