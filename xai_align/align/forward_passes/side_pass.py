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
from xai_align.align.forward_passes.label_saliency import LabelSaliency
from xai_align.align.saliency import at_least_float32

__all__ = ["SidePass", "batch_statistics_preserved", "evaluation_pass"]


class SidePass:
    """Forward pass of other images, in the classifier's current modes; running statistics are not updated.

    :meth:`ClassifierPass.side_pass` makes one for the current step.

    Args:
        of_labels: the classifier, and how the evidence for a label is measured.
        images: ``[N, C, H, W]``.
        labels: ``[N]``, int64: the classes of the CAMs.
    """

    def __init__(self, of_labels: LabelSaliency, images: Tensor, labels: Tensor) -> None:
        self.labels = labels
        self._of_labels, self._images = of_labels, images
        with batch_statistics_preserved(of_labels.classifier):
            self.seen = of_labels.capture(images)

    @cached_property
    def logits(self) -> Tensor:
        """Logits ``[N, K]``, float32 or float64."""
        return at_least_float32(self.seen.logits)

    @cached_property
    def cam(self) -> Tensor:
        """CAMs of the labels, ``[N, 1, h, w]``, not below 0, in the units of the logits."""
        return self._of_labels.evidence(self._images, self.labels, lambda: self.seen)

    @cached_property
    def saliency(self) -> Tensor:
        """Normalised CAMs of the labels, ``[N, 1, h, w]`` in [0, 1]."""
        return self._of_labels.normalised(self._images, self.labels, lambda: self.seen)


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
