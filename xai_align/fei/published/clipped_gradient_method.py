"""The average clipped gradient as an attribution method with Captum's interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.single_tensor import like_given, only_one, share_over_channels
from xai_align._tools.thread_state import restores_thread_state
from xai_align.fei.micro_batches import micro_batches
from xai_align.fei.published.clipped_gradient import clipped_gradient
from xai_align.fei.solid_colours import Normalization
from xai_align.fei.solver import Solver, seeded
from xai_align.pinet.input_checks import forward_arguments
from xai_align.question import target_or_only_output

_SOLVER = Solver.of(clipped_gradient)


class ClippedGradientMethod:
    """Attribution method by the mean clipped gradient of the answer on the path from solid colours to the image.

    Signed, in units of the answer; nothing is optimised. See :func:`~xai_align.fei.published.clipped_gradient`.

    Args:
        forward_func: the model, an ``nn.Module`` in eval mode that returns logits.
        internal_batch_size: number of images processed at a time; None: 8.
        **options: ``points``, ``colours``, ``clip``, ``clip_layers``, ``normalization``, ``baselines``, ``seed``.
            All of these are defaults that a call can override.

    Raises:
        TypeError: there is no such option.

    Source: the gradient of FEI's steps (Zhang & McMillan, arXiv 2509.04588); its mean is ours.

    Example::

        attributions = ClippedGradientMethod(model).attribute(images, target=281)
    """

    def __init__(self, forward_func: nn.Module, *, internal_batch_size: int | None = None, **options: Any) -> None:
        _SOLVER.single_options(options)
        self.forward_func = forward_func
        self.internal_batch_size, self.options = internal_batch_size, options

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
        """Return the map in the shape and dtype of ``inputs``, spread evenly over the channels.

        Args:
            inputs: images ``[N, C, H, W]``, or a tuple of one such tensor.
            baselines: as in :meth:`FEIMethod.attribute <xai_align.fei.FEIMethod.attribute>`, and so are
                ``target``, ``additional_forward_args``, ``normalization``, ``internal_batch_size`` and ``generator``.
            **options: further options, e.g. ``points=(0.5,)``, ``colours=4``, ``clip="none"``, ``seed=1``.

        Raises:
            TypeError: there is no such option.
            TargetError: (an AssertionError) the target does not fit the output.
            NothingToClip: (a ValueError) the model has no activation to clip; use ``clip="none"``.
            ValueError: inputs, model or an option are invalid; the message says what to do.
        """
        images = only_one("inputs", inputs)
        chosen = {"baselines": only_one("baselines", baselines), "normalization": normalization}
        options = self.options | {name: value for name, value in chosen.items() if value is not None} | options
        _SOLVER.single_options(options)
        network, batches = micro_batches(
            self.forward_func,
            images,
            target_or_only_output(self.forward_func, target),
            internal_batch_size=self.internal_batch_size if internal_batch_size is None else internal_batch_size,
            additional_forward_args=forward_arguments(additional_forward_args) or None,
            options=seeded(options, generator),
        )
        maps = []
        for batch in batches:
            with batch.noted_in_errors():
                maps.append(clipped_gradient(network, batch.inputs, batch.questions, **batch.options))
        return like_given(inputs, share_over_channels(torch.cat(maps), images))
