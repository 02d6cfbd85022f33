"""ALIGN's masker where a pipeline expects a CAM of pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gradcam_align.attribution_cam import AttributionCAM
from xai_align.builtin import ALIGN

if TYPE_CHECKING:
    from torch import nn


class ALIGNCAM(AttributionCAM):
    """Where a masker sees the evidence of an image, with the constructor and the call of ``GradCAM``.

    :meth:`attributions` is the mask itself, from 0 to 1; the call scales each image's mask to 0..1. It is the same for
    every target, and a warning says so once. For Grad-CAM of the aligned classifier itself: ``GradCAM``.

    Args:
        model: the classifier; it is run for ``outputs``, and for which class is the predicted one.
        target_layers: leave them out; they make no difference.
        reshape_transform: not needed.
        masker: a :class:`~xai_align.align.Masker`, the trainer or fit that has one, or the file of a saved one. None:
            that of a model from ``align:FOLDER``.
        **options: of :class:`captum_align.ALIGNAttribution`.

    Raises:
        ValueError: there is no masker.

    Source: from the published description of ALIGN, Hong et al. (arXiv 2511.06944).

    Example::

        with ALIGNCAM(model, masker=Masker()) as cam:  # in practice, trainer.classifier and trainer.masker
            picture = cam(images)  # numpy [2, 32, 32], in [0, 1]
    """

    method = ALIGN

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[Any] | None = None,
        reshape_transform: Callable[..., Any] | None = None,
        *,
        masker: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, masker=masker, **options)
        if self._methods[0].masker is None:
            raise ValueError(
                "no masker was given: ALIGNCAM(model, masker=...) takes a Masker, a trainer or fit that has one, or "
                "the file of a saved one"
            )
