"""AmortisedFEIAttribution: FEI's map in one pass as a Captum method."""

from __future__ import annotations

from captum.attr import Attribution
from captum.log import log_usage

from captum_align.without_futures import WithoutFutures
from captum_align.without_sum import WithoutSum
from xai_align.fei import AmortisedFEI


class AmortisedFEIAttribution(AmortisedFEI, WithoutFutures, WithoutSum, Attribution):
    """Ranking of the pixels that support the answer, in one pass, by a network that was fitted to this model.

    Arguments, options and errors are those of :class:`xai_align.fei.AmortisedFEI`; this class adds Captum's interface.

    Source: ours; the masks are those of the solver "curve", after FEI, Zhang & McMillan (arXiv 2509.04588).

    Example::

        fitted = fit_fei(model, torch.rand(4, 3, 32, 32), epochs=1, batch_size=2)  # in practice, thousands of images
        attributions = AmortisedFEIAttribution(model, fitted).attribute(images, target=281)
    """

    attribute = log_usage()(AmortisedFEI.attribute)

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name in tables."""
        return "Amortised FEI"
