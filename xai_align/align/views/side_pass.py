"""Further forward passes of a training step, which must not change what the classifier knows of its data.

A step may show the classifier images that are not from the data: mixed, attacked, or on other backgrounds. Each pass
is normalised by its own batch, as always in training. If it also went into BatchNorm's running statistics, these would
be of a mixture that no pass was ever normalised by, and in eval mode ordinary images would be normalised wrongly. (Xie
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
from xai_align.align.look import look
from xai_align.align.saliency import Normalise, Order, at_least_float32, cam_at, saliency_at
from xai_align.hookspecs import FeatureSpace

__all__ = ["SidePass", "evaluation_pass", "statistics_kept"]


class SidePass:
    """One forward pass of other images, in the modes the classifier is in; running statistics stay as they are.

    :meth:`ClassifierView.side_pass` makes one for the step at hand.

    Args:
        classifier: gives logits ``[N, K]``.
        space: where CAMs are taken.
        images: ``[N, C, H, W]``.
        labels: ``[N]``, int64: the classes of the CAMs.
        order: "first": a CAM's channel weights are constants. "second": gradients go through them.
        normalise: how a CAM comes into [0, 1].
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
    ) -> None:
        with statistics_kept(classifier):
            self.seen = look(classifier, images, space)
        self.labels, self.order, self.normalise = labels, order, normalise

    @cached_property
    def logits(self) -> Tensor:
        """``[N, K]``, float32 or float64."""
        return at_least_float32(self.seen.logits)

    @cached_property
    def cam(self) -> Tensor:
        """``[N, 1, h, w]``, not below 0: the labels' CAMs, in the units of the logits."""
        return cam_at(self.seen, self.labels, order=self.order)

    @cached_property
    def saliency(self) -> Tensor:
        """``[N, 1, h, w]`` in [0, 1]: the labels' CAMs, normalised."""
        return saliency_at(self.seen, self.labels, order=self.order, how=self.normalise)


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm in train mode normalises by the batch and does not update its running statistics."""
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
    """Put the classifier in eval mode with gradients enabled, for passes that a term needs beside those that train.

    Afterwards every module is in the mode it was in, and PyTorch's random state is as before.

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
