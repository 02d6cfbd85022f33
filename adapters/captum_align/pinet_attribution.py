"""PiNetAttribution: the exact readout as a Captum method."""

from __future__ import annotations

from captum.attr import Attribution
from captum.log import log_usage

from xai_align.pinet.method import PiNetMethod


class PiNetAttribution(PiNetMethod, Attribution):
    """Contribution of every input pixel to the answer, by the exact readout of an unchanged network.

    Arguments, options and errors are those of :class:`xai_align.pinet.PiNetMethod`; this class adds Captum's interface.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378).

    Example::

        pinet = PiNetAttribution(model)
        attributions, delta = pinet.attribute(images, target=281, return_convergence_delta=True)
    """

    attribute = log_usage()(PiNetMethod.attribute)

    def has_convergence_delta(self) -> bool:
        """Return True: the delta is the completeness error."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: a contribution is coefficient times value."""
        return True

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name in tables."""
        return "PiNet"
