"""The mask of a trained masker as an attribution method with Captum's interface."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.batches import batches_of
from xai_align._tools.callers_level import callers_level
from xai_align._tools.images import check_images
from xai_align._tools.replica import Replica
from xai_align._tools.single_tensor import like_given, only_one, share_over_channels
from xai_align._tools.thread_state import restores_thread_state
from xai_align.align.masker_file import HoldsMasker, find_masker
from xai_align.question import as_questions


class ClassAgnosticWarning(UserWarning):
    """Warning that a target was given to a method whose map is the same for every class.

    Example::

        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ClassAgnosticWarning)
            ALIGNMethod(Masker()).attribute(images, target=281)  # the same mask for every target
    """


class ALIGNMethod:
    """Attribution method that returns a trained masker's mask: one forward pass, no gradients.

    The masker was trained together with a classifier (:class:`~xai_align.align.AlignTrainer`). Its only input is the
    image, so an image has one mask for all classes, and the classifier is not run. Values are from 0 to 1; they are not
    contributions and do not sum to an answer.

    Args:
        masker: a :class:`~xai_align.align.Masker` or another module that gives masks ``[N, 1, H, W]`` for images
            ``[N, C, H, W]``; the trainer or fit that has one; or the file of a saved one. None: given with each call.
        internal_batch_size: images per forward pass; it bounds the memory and changes no mask.
            None: all at once.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: the object holds no masker.
        ValueError: the trainer has none yet, or the file can't be used.

    Source: from the published description of ALIGN, Hong et al. (arXiv 2511.06944).

    Example::

        align = ALIGNMethod(Masker())  # or a trainer, a fit, or the path of a saved masker
        masks = align.attribute(images).sum(1)  # [N, H, W], in [0, 1]
    """

    def __init__(self, masker: HoldsMasker | None, *, internal_batch_size: int | None = None) -> None:
        self.forward_func = None if masker is None else find_masker(masker)
        self.internal_batch_size = internal_batch_size
        #: True for a masker of our own, read from a file: it is moved to the images' device.
        self._from_file = isinstance(masker, str | os.PathLike)
        self._warned = False

    @property
    def masker(self) -> nn.Module | None:
        """The masker; None if each call gives one."""
        return self.forward_func

    @restores_thread_state
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        masker: HoldsMasker | None = None,
        internal_batch_size: int | None = None,
        return_masks: bool = False,
    ) -> Any:
        """Return the mask in the shape and dtype of ``inputs``, spread evenly over the channels.

        Args:
            inputs: images ``[N, C, H, W]``, normalised as the masker's training images were, or a tuple of one such
                tensor.
            target: a target as in Captum's methods, or a ``xai_align.Question``. It has no effect: the mask is the
                same for every class. A :class:`ClassAgnosticWarning` is issued once.
            additional_forward_args: no effect either: the masker's only input is the image.
            masker: replaces the constructor's masker for this call.
            internal_batch_size: as at construction, for this call.
            return_masks: also return the masks, ``[N, 1, H, W]``.

        Returns:
            The attributions, a tuple if a tuple was given; or ``(attributions, masks)``.

        Raises:
            FileNotFoundError: there is no such file.
            TargetError: (an AssertionError) the target is invalid, or is for another number of images.
            TypeError: the images are not a floating-point tensor.
            ValueError: there is no masker, or its inputs or outputs are invalid; the message says why.
        """
        images = check_images("the images", only_one("inputs", inputs))
        if target is not None:
            as_questions(target, len(images))
            self._warn_once()
        module = self._module(masker, images)
        size = self.internal_batch_size if internal_batch_size is None else internal_batch_size
        masks = torch.cat([masks_of(module, batch.inputs[0]) for batch in batches_of((images,), None, None, size)])
        attributions = like_given(inputs, share_over_channels(masks[:, 0], images))
        return (attributions, masks.to(images.dtype)) if return_masks else attributions

    def _module(self, given: HoldsMasker | None, images: Tensor) -> nn.Module:
        """Return the masker of this call; one read from a file is moved to the images' device."""
        if given is None:
            if self.masker is None:
                raise ValueError(
                    f"no masker was given: {type(self).__name__}(masker), attribute(..., masker=FILE), "
                    "explain(..., method='align', masker=FILE), or a model that brings its own, 'align:FOLDER'"
                )
            return self.masker.to(images.device) if self._from_file else self.masker
        module = find_masker(given)
        return module.to(images.device) if isinstance(given, str | os.PathLike) else module

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "the mask is the same for every class: the masker's only input is the image, and the target is "
                "ignored. For a map of one class use Grad-CAM of the trained classifier",
                ClassAgnosticWarning,
                stacklevel=callers_level(),
            )


def masks_of(masker: nn.Module, images: Tensor) -> Tensor:
    """Return masks ``[N, 1, H, W]`` on the images' device, made by a copy of the masker in eval mode and its dtype.

    Raises:
        ValueError: the masker's outputs are not masks.
    """
    like = next(masker.parameters(), images)
    with torch.no_grad():
        masks = Replica(masker, evaluate=True).module(images.detach().clone().to(device=like.device, dtype=like.dtype))
    wanted = (len(images), 1, *images.shape[-2:])
    if not isinstance(masks, Tensor) or masks.shape != wanted:
        found = list(masks.shape) if isinstance(masks, Tensor) else type(masks).__name__
        raise ValueError(f"{type(masker).__name__} gave {found} for images {list(images.shape)}; masks are {wanted}")
    if not bool(((masks >= 0) & (masks <= 1)).all()):
        raise ValueError(
            f"{type(masker).__name__} gave values outside [0, 1], or NaN; "
            "masks lie in [0, 1], so let it end in a sigmoid"
        )
    return masks.to(images.device)
