"""EPICAttribution: contributions by mixed channel, as a layer method of Captum."""

from __future__ import annotations

from captum.attr import Attribution
from captum.log import log_usage

from captum_align.without_futures import WithoutFutures
from xai_align.prototypes import EPICMethod


class EPICAttribution(EPICMethod, WithoutFutures, Attribution):
    """Contributions of mixed channels, each illustrated by parts of images.

    Arguments, options and errors are those of :class:`xai_align.prototypes.EPICMethod`; this class adds Captum's
    interface. Attributions have the shape of the mixed map, ``[N, D, h, w]``, as those of Captum's layer methods have
    their layer's.

    Source: EPIC, Borycki et al. (AAAI 2026, arXiv 2505.12897).

    Example::

        found = fit_prototypes(model, list(images), "conv2", prototypes=2)
        attributions = EPICAttribution(model, found).attribute(images, target=281)  # [2, 8, 16, 16]
    """

    attribute = log_usage()(EPICMethod.attribute)

    def has_convergence_delta(self) -> bool:
        """Return True: contributions and the rest of the answer sum to it."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """Return True: contributions are coefficients times the mixed map."""
        return True

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name in tables."""
        return "EPIC"
