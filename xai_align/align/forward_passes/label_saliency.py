"""Saliency of the labels that a step's terms compare: of one classifier, at one layer, by one measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from xai_align.align.captured_pass import CapturedPass, capture
from xai_align.align.saliency import Normalise, Order, cam_at, saliency_at
from xai_align.align.saliency_of_readouts import Saliency, readout_evidence, readout_saliency
from xai_align.hookspecs import FeatureSpace


@dataclass(frozen=True, kw_only=True)
class LabelSaliency:
    """Measure of the evidence for each image's label.

    Attributes:
        classifier: gives logits ``[N, K]``.
        space: feature space of the maps.
        kind: "gradcam", or "readout": the exact readout in place of the CAM.
        order: "first": a CAM's channel weights are constants. "second": gradients go through them.
        normalise: scaling of a map to [0, 1].
    """

    classifier: nn.Module
    space: FeatureSpace
    kind: Saliency = "gradcam"
    order: Order = "first"
    normalise: Normalise = "max"

    def capture(self, images: Tensor) -> CapturedPass:
        """Run the classifier on images ``[N, C, H, W]``, in its current modes."""
        return capture(self.classifier, images, self.space)

    def evidence(self, images: Tensor, labels: Tensor, seen: Callable[[], CapturedPass]) -> Tensor:
        """Return maps ``[N, 1, h, w]``, not below 0, in the units of the logits.

        Args:
            images: ``[N, C, H, W]``.
            labels: ``[N]``, int64.
            seen: returns their forward pass; a readout needs none and has its own.
        """
        if self.kind == "readout":
            return readout_evidence(self.classifier, images, labels, layer=self.space).relu()
        return cam_at(seen(), labels, order=self.order)

    def normalised(self, images: Tensor, labels: Tensor, seen: Callable[[], CapturedPass]) -> Tensor:
        """Return maps ``[N, 1, h, w]`` in [0, 1]; the arguments are those of :meth:`evidence`."""
        if self.kind == "readout":
            return readout_saliency(self.classifier, images, labels, layer=self.space, how=self.normalise)
        return saliency_at(seen(), labels, order=self.order, how=self.normalise)
