"""ClippedGradientAttribution: the average clipped gradient as a Captum method."""

from __future__ import annotations

from captum.attr import Attribution
from captum.log import log_usage

from captum_align.without_futures import WithoutFutures
from xai_align.fei import ClippedGradientMethod


class ClippedGradientAttribution(ClippedGradientMethod, WithoutFutures, Attribution):
    """Mean clipped gradient of the answer on the path from solid colours to the image.

    Arguments, options and errors are those of :class:`xai_align.fei.ClippedGradientMethod`; this class adds Captum's
    interface.

    Source: the gradient of FEI's steps (Zhang & McMillan, arXiv 2509.04588); its mean is ours.

    Example::

        attributions = ClippedGradientAttribution(model).attribute(images, target=281)
    """

    attribute = log_usage()(ClippedGradientMethod.attribute)

    def has_convergence_delta(self) -> bool:
        """Return False: clipped gradients at a few points of the path have no sum to converge to."""
        return False

    @property
    def multiplies_by_inputs(self) -> bool:
        """Return True: the derivative along the mask is gradient times (image - colour)."""
        return True

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name in tables."""
        return "Clipped Gradient"
