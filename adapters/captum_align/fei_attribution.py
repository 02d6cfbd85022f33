"""FEIAttribution: optimised masks with Captum's call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from captum._utils.common import _format_additional_forward_args, _format_output, _is_tuple
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor, nn

from xai_align._tools.thread_state import restores_thread_state
from xai_align.fei.optimize import find_solver, optimize_masks
from xai_align.fei.pieces import check_options
from xai_align.question import Question, QuestionModel

if TYPE_CHECKING:
    import torch

    from xai_align.fei.solid_colours import Normalization


class FEIAttribution(Attribution):
    """Which pixels the answer rests on, by masks that are optimised to show it and to hide it.

    The map is a ranking, whose values are no contributions and do not sum to the answer. With the solver "curve"
    they are scores with mean 0 and standard deviation 1; with "nested", the mean of masks that mark more and more of
    the image, from 0 to 1.

    Args:
        forward_func: the model, an ``nn.Module`` in eval mode that returns logits.
        solver: "curve" or "nested", see :func:`~xai_align.fei.optimize_masks`.
        internal_batch_size: how many images are worked on at a time; None: 8.
        **options: of the solver. All of these hold for every call that does not say otherwise.

    Raises:
        TypeError: the solver has no such option.
        ValueError: there is no such solver.

    Source: FEI, Zhang & McMillan (arXiv 2509.04588).

    Example::

        fei = FEIAttribution(model, normalization=(mean, std))
        attributions = fei.attribute(images, target=281)
    """

    def __init__(
        self, forward_func: nn.Module, *, solver: str = "curve", internal_batch_size: int | None = None, **options: Any
    ) -> None:
        Attribution.__init__(self, forward_func)
        check_options(find_solver(solver), options)
        self.solver, self.internal_batch_size, self.options = solver, internal_batch_size, options

    @log_usage()
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
        **solver_options: Any,
    ) -> Any:
        """The map, spread evenly over the channels, in the shape and dtype of ``inputs``: ``.sum(1)`` is the map.

        Where an option is None, it is as the method was built with, or the solver's own default.

        Args:
            inputs: images ``[N, C, H, W]``, or a tuple of one such tensor.
            baselines: what stands where the image is hidden: None for a new random fill at every step; a number; a
                tensor ``[N, C, H, W]`` (axes may be 1) or a tuple of one; or a function
                ``(inputs, step, generator) -> Tensor``.
            target: what Captum's methods take, numpy integers and arrays, or a ``xai_align.Question``.
            additional_forward_args: further arguments of the model.
            solver: "curve" or "nested".
            quantiles: the shares of the image that masks mark, increasing in (0, 1).
            n_iter: steps of the solver.
            normalization: ``(mean, std)`` of the images: random colours are then drawn from all that a picture can
                show, and else from each image's own range.
            internal_batch_size: how many images are worked on at a time; it bounds the memory and changes no map.
            generator: one number is drawn from it as the seed. None: the same random numbers at every call.
            show_progress: show a progress bar over all steps.
            return_masks: also return the masks, ``[N, K, 1, H, W]``.
            return_info: also return the :class:`~xai_align.fei.OptimisedMasks`.
            **solver_options: further options of the solver, e.g. ``clip="none"``, ``mask_size=28``, ``seed=1``.

        Returns:
            The attributions, a tuple if a tuple was given; or with masks and info ``(attributions, masks, info)``,
            without what was not asked for.

        Raises:
            TypeError: the solver has no such option.
            TargetError: (an AssertionError) the target does not fit the output.
            NothingToClip: (a ValueError) gradients are to be clipped (with "nested" they are by default) and the model
                has no activation for it; ``clip="none"`` goes without.
            ValueError: inputs, model or an option are not fit; the message says what to do.
        """
        images = only_one("inputs", inputs)
        chosen = {
            "baselines": only_one("baselines", baselines),
            "quantiles": quantiles,
            "n_iter": n_iter,
            "normalization": normalization,
        }
        found = optimize_masks(
            self.forward_func,
            images,
            asked(self.forward_func, target),
            solver=self.solver if solver is None else solver,
            internal_batch_size=self.internal_batch_size if internal_batch_size is None else internal_batch_size,
            generator=generator,
            show_progress=show_progress,
            additional_forward_args=_format_additional_forward_args(additional_forward_args),
            **self.options | {name: value for name, value in chosen.items() if value is not None} | solver_options,
        )
        attributions = _format_output(_is_tuple(inputs), (over_channels(found.attribution, images),))
        further = [found.masks.unsqueeze(2)] * return_masks + [found] * return_info
        return (attributions, *further) if further else attributions

    def has_convergence_delta(self) -> bool:
        """False: a ranking has no sum to converge to."""
        return False

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: a mask is no product with the image."""
        return False

    @classmethod
    def get_name(cls) -> str:
        """The method's name in tables."""
        return "FEI"


def only_one(name: str, given: Any) -> Any:
    """What is given, out of a tuple of one.

    Raises:
        ValueError: the tuple holds more.
    """
    if not isinstance(given, tuple):
        return given
    if len(given) != 1:
        raise ValueError(
            f"{len(given)} {name} were given; a mask lies over one tensor of images. Give the tensor that is to be "
            "explained, and further inputs of the model as additional_forward_args"
        )
    return given[0]


def asked(model: Any, target: Any) -> Any:
    """The target as a question: to Captum, None is not the predicted class but an output with one entry."""
    return Question(((),)) if target is None and not isinstance(model, QuestionModel) else target


def over_channels(maps: Tensor, images: Tensor) -> Tensor:
    """Maps ``[N, H, W]`` in the shape and dtype of the images, whose channels share each pixel's value equally."""
    return (maps.unsqueeze(1) / images.shape[1]).expand(images.shape).to(images.dtype).contiguous()
