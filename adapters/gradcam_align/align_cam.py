"""ALIGN's masker as a CAM of pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gradcam_align.attribution_cam import AttributionCAM
from xai_align.builtin import ALIGN

if TYPE_CHECKING:
    from torch import nn


class ALIGNCAM(AttributionCAM):
    """Mask of an image's evidence by a masker, with the constructor and the call of ``GradCAM``.

    :meth:`attributions` returns the mask itself, from 0 to 1; the call scales each image's mask to 0..1. The mask is
    the same for every target, and a warning is issued once. For Grad-CAM of the aligned classifier, use ``GradCAM``.

    Args:
        model: the classifier; it is run for ``outputs`` and for the predicted class.
        target_layers: ignored.
        reshape_transform: not needed.
        masker: a :class:`~xai_align.align.Masker`, a trainer or fit that has one, or the file of a saved one. None:
            that of a model from ``align:FOLDER``.
        **options: options of :class:`captum_align.ALIGNAttribution`.

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
