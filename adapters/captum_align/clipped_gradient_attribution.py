"""ClippedGradientAttribution: the average clipped gradient as one of Captum's methods."""

from __future__ import annotations

from captum.attr import Attribution
from captum.log import log_usage

from xai_align.fei.clipped_gradient_method import ClippedGradientMethod


class ClippedGradientAttribution(ClippedGradientMethod, Attribution):
    """Mean slope of the answer on the way from solid colours to the image, its computation not rerouted.

    Arguments, options and errors are those of :class:`xai_align.fei.ClippedGradientMethod`, which does the work;
    this class also answers what Captum's tools ask of a method.

    Source: the gradient that FEI's steps go along (Zhang & McMillan, arXiv 2509.04588); its mean is ours.

    Example::

        attributions = ClippedGradientAttribution(model).attribute(images, target=281)
    """

    attribute = log_usage()(ClippedGradientMethod.attribute)

    def has_convergence_delta(self) -> bool:
        """Return False: slopes at a few points of the way, clipped, have no sum to converge to."""
        return False

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: a slope along the mask is gradient times (image - colour)."""
        return True

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name in tables."""
        return "Clipped Gradient"
