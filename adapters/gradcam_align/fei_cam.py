"""FEI as a CAM of pytorch-grad-cam."""

from __future__ import annotations

from gradcam_align.attribution_cam import AttributionCAM
from xai_align.builtin import FEI


class FEICAM(AttributionCAM):
    """Ranking of the pixels that support the answer, by optimised masks, with constructor and call of ``GradCAM``.

    :meth:`attributions` ranks the pixels. With the solver "curve" it has mean 0, so the scaled map shows the part
    above the mean; with "nested" it lies between 0 and 1.

    Args:
        model: the network.
        target_layers: ignored. The layers where the search starts and where gradients are clipped are options:
            ``start_layer="layer3"``, ``clip_layers=["layer4"]``.
        reshape_transform: not needed.
        **options: options of :class:`captum_align.FEIAttribution`, e.g. ``normalization=(mean, std)``, ``n_iter=50``,
            ``solver="nested"``.

    Source: FEI, Zhang & McMillan (arXiv 2509.04588).

    Example::

        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        with FEICAM(model, normalization=(mean, std), n_iter=10) as cam:
            picture = cam(images, [ClassifierOutputTarget(281)] * len(images))
    """

    method = FEI
