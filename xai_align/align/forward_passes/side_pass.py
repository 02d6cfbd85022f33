"""Additional forward passes of a training step that must not change BatchNorm's statistics.

A step may run the classifier on images that are not from the data: mixed, attacked, or on other backgrounds. Each pass
is normalised by its own batch, as always in training. If it also updated BatchNorm's running statistics, these would
describe a mixture that no pass was normalised by, and in eval mode ordinary images would be normalised wrongly. (Xie
et al. 2020, "Adversarial examples improve image recognition", keep two sets of statistics for this reason.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xai_align._tools.model_state import evaluating, modules_of
from xai_align._tools.random_state import kept_random_state
from xai_align.align.captured_pass import capture
from xai_align.align.saliency import Normalise, Order, at_least_float32, cam_at, saliency_at
from xai_align.align.saliency_of_readouts import Saliency, readout_evidence, readout_saliency
from xai_align.hookspecs import FeatureSpace

__all__ = ["SidePass", "batch_statistics_preserved", "evaluation_pass"]


class SidePass:
    """Forward pass of other images, in the classifier's current modes; running statistics are not updated.

    :meth:`ClassifierPass.side_pass` makes one for the current step.

    Args:
        classifier: gives logits ``[N, K]``.
        space: feature space of the CAMs.
        images: ``[N, C, H, W]``.
        labels: ``[N]``, int64: the classes of the CAMs.
        order: "first": a CAM's channel weights are constants. "second": gradients go through them.
        normalise: scaling of a CAM to [0, 1].
        saliency: "gradcam", or "readout": the exact readout in place of the CAM.
    """

    def __init__(
        self,
        classifier: nn.Module,
        space: FeatureSpace,
        images: Tensor,
        labels: Tensor,
        *,
        order: Order,
        normalise: Normalise,
        saliency: Saliency = "gradcam",
    ) -> None:
        self._of = classifier, space, images
        self.kind = saliency
        with batch_statistics_preserved(classifier):
            self.seen = capture(classifier, images, space)
        self.labels, self.order, self.normalise = labels, order, normalise

    @cached_property
    def logits(self) -> Tensor:
        """Logits ``[N, K]``, float32 or float64."""
        return at_least_float32(self.seen.logits)

    @cached_property
    def cam(self) -> Tensor:
        """CAMs of the labels, ``[N, 1, h, w]``, not below 0, in the units of the logits."""
        if self.kind == "readout":
            classifier, space, images = self._of
            return readout_evidence(classifier, images, self.labels, layer=space).relu()
        return cam_at(self.seen, self.labels, order=self.order)

    @cached_property
    def saliency(self) -> Tensor:
        """Normalised CAMs of the labels, ``[N, 1, h, w]`` in [0, 1]."""
        if self.kind == "readout":
            classifier, space, images = self._of
            return readout_saliency(classifier, images, self.labels, layer=space, how=self.normalise)
        return saliency_at(self.seen, self.labels, order=self.order, how=self.normalise)


@contextmanager
def batch_statistics_preserved(model: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics inside the block; in train mode it still normalises by the batch."""
    updating = [m for m in modules_of(model) if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    try:
        for module in updating:
            module.track_running_stats = False
        yield
    finally:
        for module in updating:
            module.track_running_stats = True


@contextmanager
def evaluation_pass(classifier: nn.Module) -> Iterator[None]:
    """Put the classifier in eval mode with gradients enabled, for additional passes of a term.

    Modes and PyTorch's random state are restored afterwards.

    Args:
        classifier: any network.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from xai_align.align import evaluation_pass
        >>> classifier = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(12, 2)).train()
        >>> images = torch.randn(4, 3, 2, 2, requires_grad=True)
        >>> with evaluation_pass(classifier):
        ...     (gradient,) = torch.autograd.grad(classifier(images)[:, 0].sum(), images)
        >>> gradient.shape, classifier.training
        (torch.Size([4, 3, 2, 2]), True)
    """
    with torch.enable_grad(), evaluating(classifier), kept_random_state():
        yield
