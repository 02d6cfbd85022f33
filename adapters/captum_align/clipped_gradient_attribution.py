"""ClippedGradientAttribution: the average clipped gradient with Captum's call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from captum._utils.common import _format_additional_forward_args, _format_output, _is_tuple
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_align.fei_attribution import asked, only_one, over_channels
from xai_align._tools.thread_state import restores_thread_state
from xai_align.fei.clipped_gradient import clipped_gradient
from xai_align.fei.pieces import asked_pieces, check_options, seeded

if TYPE_CHECKING:
    from xai_align.fei.solid_colours import Normalization


class ClippedGradientAttribution(Attribution):
    """How the answer rises with each pixel on the way from solid colours to the image, its computation not rerouted.

    Signed, in units of the answer; nothing is optimised. See :func:`~xai_align.fei.clipped_gradient`.

    Args:
        forward_func: the model, an ``nn.Module`` in eval mode that returns logits.
        internal_batch_size: how many images are worked on at a time; None: 8.
        **options: ``points``, ``colours``, ``clip``, ``clip_layers``, ``normalization``, ``baselines``, ``seed``.
            All of these hold for every call that does not say otherwise.

    Raises:
        TypeError: there is no such option.

    Source: the gradient that FEI's steps go along (Zhang & McMillan, arXiv 2509.04588); its mean is ours.

    Example::

        attributions = ClippedGradientAttribution(model).attribute(images, target=281)
    """

    def __init__(self, forward_func: nn.Module, *, internal_batch_size: int | None = None, **options: Any) -> None:
        Attribution.__init__(self, forward_func)
        check_options(clipped_gradient, options)
        self.internal_batch_size, self.options = internal_batch_size, options

    @log_usage()
    @restores_thread_state
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        normalization: Normalization | None = None,
        internal_batch_size: int | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Any:
        """The map, spread evenly over the channels, in the shape and dtype of ``inputs``: ``.sum(1)`` is the map.

        Args:
            inputs: images ``[N, C, H, W]``, or a tuple of one such tensor.
            baselines: as in :meth:`FEIAttribution.attribute <captum_align.FEIAttribution.attribute>`, and so are
                ``target``, ``additional_forward_args``, ``normalization``, ``internal_batch_size`` and ``generator``.
            **options: further options, e.g. ``points=(0.5,)``, ``colours=4``, ``clip="none"``, ``seed=1``.

        Raises:
            TypeError: there is no such option.
            TargetError: (an AssertionError) the target does not fit the output.
            NothingToClip: (a ValueError) the model has no activation to clip; ``clip="none"`` goes without.
            ValueError: inputs, model or an option are not fit; the message says what to do.
        """
        images = only_one("inputs", inputs)
        chosen = {"baselines": only_one("baselines", baselines), "normalization": normalization}
        options = self.options | {name: value for name, value in chosen.items() if value is not None} | options
        check_options(clipped_gradient, options)
        network, pieces = asked_pieces(
            self.forward_func,
            images,
            asked(self.forward_func, target),
            internal_batch_size=self.internal_batch_size if internal_batch_size is None else internal_batch_size,
            additional_forward_args=_format_additional_forward_args(additional_forward_args),
            options=seeded(options, generator),
        )
        maps = []
        for piece in pieces:
            with piece.counted():
                maps.append(clipped_gradient(network, piece.inputs, piece.questions, **piece.options))
        return _format_output(_is_tuple(inputs), (over_channels(torch.cat(maps), images),))

    def has_convergence_delta(self) -> bool:
        """False: slopes at a few points of the way, clipped, have no sum to converge to."""
        return False

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: a slope along the mask is gradient times (image - colour)."""
        return True

    @classmethod
    def get_name(cls) -> str:
        """The method's name in tables."""
        return "Clipped Gradient"
