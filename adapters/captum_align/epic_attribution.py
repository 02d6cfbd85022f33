"""EPICAttribution: contributions by mixed channel, as a layer method of Captum."""

from __future__ import annotations

from typing import Any

from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor

from captum_align.call_shapes import check_shapes, delta_call
from captum_align.without_futures import WithoutFutures
from xai_align.adapter_tools import restores_thread_state
from xai_align.pinet.rounding import total_of
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

    @restores_thread_state
    def compute_convergence_delta(self, attributions: Tensor | tuple[Tensor, ...], *args: Any, **named: Any) -> Tensor:
        """Return ``[N]``, the sum of these attributions, bias, prefix and evidence around the layer minus the answer.

        Called as Captum's, ``(attributions, start_point, end_point, target, additional_forward_args)``, with None as
        the start; or ``(attributions, inputs, target, additional_forward_args)``.

        Raises:
            ValueError: baselines are given as the start, the inputs are not suitable, or the attributions are not in
                the shape of the mixed map.
            TypeError: an argument is unknown, or there are no inputs.
        """
        call = delta_call(attributions, args, named)
        if call.pop("baselines", None) is not None:
            raise ValueError(
                "the shares of mixed channels sum to the answer and not to a difference to baselines; leave the start "
                "point out"
            )
        shares = self.shares(call["inputs"], call.get("target"), call.get("additional_forward_args"))
        check_shapes(attributions, shares.contributions, "contributions of the mixed channels have")
        given = attributions if isinstance(attributions, tuple) else (attributions,)
        return total_of(given) - total_of((shares.contributions,)) + shares.completeness_error

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
