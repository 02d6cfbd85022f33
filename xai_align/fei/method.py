"""FEI's optimised masks as an attribution method with Captum's interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.single_tensor import like_given, only_one, share_over_channels
from xai_align._tools.thread_state import restores_thread_state
from xai_align.fei.optimize import optimize_masks, solver_options
from xai_align.fei.solid_colours import Normalization
from xai_align.pinet.input_checks import forward_arguments
from xai_align.question import target_or_only_output

#: Options that mean the same for every solver.
OF_EVERY_SOLVER = ("quantiles", "normalization", "baselines", "seed")


class FEIMethod:
    """Attribution method that ranks pixels by masks optimised for insertion and deletion.

    The values are not contributions and do not sum to the answer. With the solver "curve"
    they are scores with mean 0 and standard deviation 1; with "nested", the mean of nested masks of increasing area,
    from 0 to 1; with "both", means of both, with mean 0.

    Args:
        forward_func: the model, an ``nn.Module`` in eval mode that returns logits.
        solver: "curve", "nested" or "both", see :func:`~xai_align.fei.optimize_masks`.
        internal_batch_size: number of images processed at a time; None: 8.
        **options: options of the solver. All of these are defaults that a call can override; a call with another
            solver takes quantiles, normalization, baselines and seed over, and not the options of the search.

    Raises:
        TypeError: the solver has no such option.
        ValueError: there is no such solver.

    Source: FEI, Zhang & McMillan (arXiv 2509.04588).

    Example::

        attributions = FEIMethod(model, normalization=(mean, std)).attribute(images, target=281)
    """

    def __init__(
        self, forward_func: nn.Module, *, solver: str = "curve", internal_batch_size: int | None = None, **options: Any
    ) -> None:
        self.options = solver_options(solver, options)
        self.forward_func = forward_func
        self.solver, self.internal_batch_size = solver, internal_batch_size

    @restores_thread_state
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        solver: str | None = None,
        quantiles: Sequence[float] | None = None,
        n_iter: int | None = None,
        normalization: Normalization | None = None,
        internal_batch_size: int | None = None,
        generator: torch.Generator | None = None,
        show_progress: bool = False,
        return_masks: bool = False,
        return_info: bool = False,
        **options: Any,
    ) -> Any:
        """Return the map in the shape and dtype of ``inputs``, spread evenly over the channels.

        Options that are None take the constructor's value, or the solver's default.

        Args:
            inputs: images ``[N, C, H, W]``, or a tuple of one such tensor.
            baselines: values of hidden pixels: None for a new random fill at every step; a number; a
                tensor ``[N, C, H, W]`` (axes may be 1) or a tuple of one; or a function
                ``(inputs, step, generator) -> Tensor``.
            target: a target as in Captum's methods, numpy integers and arrays, or a ``xai_align.Question``.
            additional_forward_args: further arguments of the model.
            solver: "curve", "nested" or "both".
            quantiles: the shares of the image that masks mark, increasing in (0, 1).
            n_iter: number of steps of the solver.
            normalization: ``(mean, std)`` of the images: random colours are then drawn from the full colour range,
                otherwise from each image's own range.
            internal_batch_size: number of images processed at a time; it bounds the memory. Kernels round differently
                in batches of another size, and a long search in float32 amplifies that; with 1 the map of an image
                does not depend on its batch.
            generator: one number is drawn from it as the seed. None: the same random numbers at every call.
            show_progress: show a progress bar over all steps.
            return_masks: also return the masks, ``[N, K, 1, H, W]``.
            return_info: also return the :class:`~xai_align.fei.OptimisedMasks`.
            **options: further options of the solver, e.g. ``clip="none"``, ``mask_size=28``, ``seed=1``.

        Returns:
            The attributions, a tuple if a tuple was given; or with masks and info ``(attributions, masks, info)``,
            without those that were not requested.

        Raises:
            TypeError: the solver has no such option.
            TargetError: (an AssertionError) the target does not fit the output.
            NothingToClip: (a ValueError) gradients are to be clipped (with "nested" they are by default) and the model
                has no activation for it; use ``clip="none"``.
            ValueError: inputs, model or an option are invalid; the message says what to do.
        """
        images = only_one("inputs", inputs)
        name = self.solver if solver is None else solver
        chosen = {
            "baselines": only_one("baselines", baselines),
            "quantiles": quantiles,
            "n_iter": n_iter,
            "normalization": normalization,
        }
        found = optimize_masks(
            self.forward_func,
            images,
            target_or_only_output(self.forward_func, target),
            solver=name,
            internal_batch_size=self.internal_batch_size if internal_batch_size is None else internal_batch_size,
            generator=generator,
            show_progress=show_progress,
            additional_forward_args=forward_arguments(additional_forward_args) or None,
            **self._defaults(name, generator)
            | solver_options(name, {key: value for key, value in chosen.items() if value is not None} | options),
        )
        attributions = like_given(inputs, share_over_channels(found.attribution, images))
        further = [found.masks.unsqueeze(2)] * return_masks + [found] * return_info
        return (attributions, *further) if further else attributions

    def _defaults(self, solver: str, generator: torch.Generator | None) -> dict[str, Any]:
        """Return the constructor's options for this solver, without the seed if a generator replaces it."""
        kept = set(self.options if solver == self.solver else OF_EVERY_SOLVER)
        if generator is not None:
            kept.discard("seed")
        return {name: value for name, value in self.options.items() if name in kept}
